"""Fields of a recipe: each with its default, valid values, and source.

A recipe is a frozen dataclass whose fields are made by `option` or are sections, which are such
dataclasses themselves. `to_config` converts it to flags and `config.json`; `from_config` reads them
back and refuses invalid values. Nothing here imports JAX.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, ClassVar, TypeVar

import ml_collections

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.recipes.registry import resolve


@dataclasses.dataclass(frozen=True)
class Follows:
    """A default that is the value of another field.

    Attributes:
      field: dotted name of the other field.
    """

    field: str


class Names:
    """Choices defined in code, such as the keys of a registry; read when first needed.

    Args:
      *paths: `"module:NAME"` of an iterable of names.
      extra: further names.
    """

    def __init__(self, *paths: str, extra: tuple[str, ...] = ()):
        self._paths, self._extra = paths, extra

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(*map(resolve, self._paths), self._extra)


def option(
    default: Any,
    allowed: str | type | tuple[str, ...] | Names,
    comment: str,
    *,
    lengths: tuple[int, ...] = (),
    static: bool = True,
) -> Any:
    """A field of `Options`.

    Args:
      default: the value, or a `Follows`.
      allowed: an interval such as `"[0, 1)"` for the value, or each value of a tuple; choices;
        `bool`; or `str` for any text.
      comment: its meaning, the effect of other values, and the source of the default.
      lengths: allowed lengths of a tuple; () for any.
      static: whether compiled programs may close over it. A field that is not static is read
        between programs, or is an operand, so that recipes that differ only in such fields share
        their programs.
    """
    metadata = {"allowed": allowed, "comment": comment, "lengths": lengths, "static": static}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """A recipe or a section of one. Subclasses are frozen and accept only valid values.

    Class arguments:
      section: name of the section in a recipe; "" for fields outside sections.
      recipe: a recipe that has the section.
      methods: methods that read it, among those whose recipe has it; () for all of them.
    """

    section: ClassVar[str] = ""
    recipe: ClassVar[str] = ""
    methods: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(
        cls,
        section: str | None = None,
        recipe: str | None = None,
        methods: tuple[str, ...] | None = None,
        **kwargs,
    ):
        super().__init_subclass__(**kwargs)
        cls.section = cls.section if section is None else section
        cls.recipe = cls.recipe if recipe is None else recipe
        cls.methods = cls.methods if methods is None else methods

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for field in dataclasses.fields(self):
            if "allowed" in field.metadata and not isinstance(field.metadata["allowed"], Names):
                _check_value(self.dotted(field.name), values[field.name], field.metadata)
        if not any(isinstance(value, Follows) for value in values.values()):
            self.check_combinations()

    def check_combinations(self) -> None:
        """Refuses values that are valid individually but not in combination.

        Raises:
          UserError: naming the fields.
        """

    @classmethod
    def dotted(cls, name: str) -> str:
        """Name of a field in a recipe, `section.name`."""
        return f"{cls.section}.{name}" if cls.section else name


R = TypeVar("R", bound=Options)


def from_config(
    cls: type[R],
    config: ml_collections.ConfigDict,
    *,
    others: Iterable[type[Options]] = (),
    required: Iterable[str] = (),
) -> R:
    """The recipe given by flags or `config.json`; missing fields have their defaults in `cls`.

    Args:
      cls: dataclass of the recipe.
      config: the configuration; it may also have sections and fields of `others`.
      others: dataclasses of recipes of the same task; values of their fields are checked too.
      required: sections that must not be missing.

    Raises:
      UserError: for an unknown field, an invalid value or a missing section.
    """
    known: dict[str, list[type[Options]]] = {}
    for each in dict.fromkeys(itertools.chain.from_iterable(map(with_sections, (cls, *others)))):
        known.setdefault(each.section, []).append(each)
    sections = [name for name, value in config.items() if _is_section(value)]
    for name in sections:
        if name not in known:
            raise _not_an_option(name, known)
    given = {section: _fields_of(config, section) for section in ("", *sections)}
    for section, fields in given.items():
        valid = set().union(*map(_names, known[section]))
        for name in fields.keys() - valid:
            dotted = known[section][0].dotted
            raise _not_an_option(dotted(name), map(dotted, valid))
    read = {
        each: each(
            **{name: value for name, value in given[section].items() if name in _names(each)}
        )
        for section in sections
        for each in known[section]
    }
    own: dict[str, Any] = {n: value for n, value in given[""].items() if n in _names(cls)}
    for name, section in sections_of(cls).items():
        if name in given:
            own[name] = read[section]
        elif name in required:
            raise UserError(
                f"method={config.get('method')!r} reads the section {name!r}, which this recipe "
                f"lacks; start from --config={section.recipe}."
            )
    recipe = cls(**own)
    for options in (recipe, *read.values()):  # last, since reading the names may import JAX
        for field in dataclasses.fields(options):
            if isinstance(field.metadata.get("allowed"), Names):
                value = getattr(options, field.name)
                _check_value(options.dotted(field.name), value, field.metadata)
    return recipe


def _names(cls: type[Options]) -> KeysView[str]:
    """Names of its options and sections, in order."""
    return {
        field.name: None
        for field in dataclasses.fields(cls)
        if "allowed" in field.metadata or isinstance(field.default, Options)
    }.keys()


def sections_of(cls: type[Options]) -> dict[str, type[Options]]:
    """The fields of a recipe that are sections, with their classes."""
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    return {name: type(value) for name, value in defaults.items() if isinstance(value, Options)}


def operands(options: Options) -> set[str]:
    """Dotted names of the fields that no compiled program closes over."""
    found = set()
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            found |= operands(value)
        elif not field.metadata.get("static", True):
            found.add(options.dotted(field.name))
    return found


def with_sections(cls: type[Options]) -> list[type[Options]]:
    """The class of a recipe and those of its sections."""
    return [cls, *sections_of(cls).values()]


def replace(options: R, changes: Mapping[str, Any]) -> R:
    """`dataclasses.replace` that also accepts dotted names of fields in sections.

    Raises:
      UserError: if there is no such field, or the value is invalid.
    """
    valid = _names(type(options))
    for name in changes:
        if name.partition(".")[0] not in valid:
            raise _not_an_option(options.dotted(name), map(options.dotted, valid))
    own = {name: value for name, value in changes.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        section, dot, field = name.partition(".")
        if dot:
            inner.setdefault(section, {})[field] = value
    own |= {name: replace(getattr(options, name), fields) for name, fields in inner.items()}
    if settings := getattr(options, "settings", None):
        settings = {
            **settings,
            **{name: value for name, value in changes.items() if "." not in name},
        }
        settings |= {name: {**settings[name], **fields} for name, fields in inner.items()}
        own["settings"] = settings
    return dataclasses.replace(options, **own)


def to_config(options: Options) -> ml_collections.ConfigDict:
    """The recipe for flags and `config.json`; fields that follow others still follow them there."""
    config = ml_collections.ConfigDict(_values(options))
    for dotted, follows in _following(options):
        section, _, name = follows.field.rpartition(".")
        source = config[section] if section else config
        section, _, own = dotted.rpartition(".")
        (config[section] if section else config)[own] = source.get_oneway_ref(name)
    return config


def is_default(name: str, recipe: Mapping[str, Any], classes: Iterable[type[Options]]) -> bool:
    """Whether a field has its declared default in any of the classes of its section.

    Args:
      name: dotted name.
      recipe: all fields by dotted name, with lists instead of tuples.
      classes: classes of recipes and sections.
    """
    section, _, short = name.rpartition(".")
    for cls in classes:
        field = cls.__dataclass_fields__.get(short) if cls.section == section else None
        if field is None:
            continue
        default = field.default
        if isinstance(default, Follows):
            default = recipe[default.field]
        if recipe[name] == (list(default) if isinstance(default, tuple) else default):
            return True
    return False


def is_within(value: object, interval: str) -> bool:
    """Whether `value` is a number in an interval such as `[0, 1)`; NaN lies in none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    return above and (value <= high if interval[-1] == "]" else value < high)


def _check_value(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    allowed = metadata["allowed"]
    several = isinstance(value, tuple)
    if isinstance(value, Follows):
        return
    if isinstance(allowed, type):
        if not all(isinstance(each, allowed) for each in (value if several else (value,))):
            what = {bool: "True or False", str: "text"}[allowed]
            raise UserError(f"{name}={value} must be {what}; correct --config.{name}=.")
    elif isinstance(allowed, str):
        if not all(is_within(each, allowed) for each in (value if several else (value,))):
            what = "numbers" if several else "a number"
            raise UserError(
                f"{name}={value} must be {what} in {allowed}; correct --config.{name}=."
            )
    else:
        for each in value if several else (value,):
            if each not in (valid := tuple(allowed)):
                raise UserError(unknown_name(name, each, valid))
    if several and metadata["lengths"] and len(value) not in metadata["lengths"]:
        counts = " or ".join(map(str, metadata["lengths"]))
        raise UserError(f"{name}={value} must hold {counts} numbers; correct --config.{name}=.")


def _not_an_option(name: str, valid: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, list(valid), n=1)
    hint = f"did you mean {near[0]!r}? " if near else "the recipe has no such field. "
    return UserError(f"Unknown option {name!r}: {hint}Correct the recipe.")


def _is_section(value: object) -> bool:
    return isinstance(value, ml_collections.ConfigDict)


def _fields_of(config: ml_collections.ConfigDict, section: str) -> dict[str, Any]:
    """The fields of a section, without sections in it; tuples in place of lists."""
    items = (config[section] if section else config).items()
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in items
        if not (_is_section(value) and not section)
    }


def _values(options: Options) -> dict[str, Any]:
    values = {}
    for name in _names(type(options)):
        value = getattr(options, name)
        if isinstance(value, Options):
            values[name] = _values(value)
        elif not isinstance(value, Follows):
            values[name] = value
    return values


def _following(options: Options) -> Iterator[tuple[str, Follows]]:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            yield from _following(value)
        elif isinstance(value, Follows):
            yield options.dotted(field.name), value
