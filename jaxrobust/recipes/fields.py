"""Options: each field of a recipe with its default, what it may be, and where that is from.

A section of a recipe is a frozen dataclass whose fields are made by `option`. From it derive the
recipe's fields and defaults (`to_config`), and every check of a recipe (`check`, `Options.read`).
Nothing here imports JAX.
"""

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, ClassVar, Self

import ml_collections

from jaxrobust.errors import UserError, unknown_name
from jaxrobust.recipes.registry import resolve


@dataclasses.dataclass(frozen=True)
class Follows:
    """A default that is the value of another field.

    Attributes:
      field: dotted name of the other field.
      both_ways: whether setting this field sets the other one too.
    """

    field: str
    both_ways: bool = False


class Names:
    """Choices that stand in code, such as the keys of a registry; read when first needed.

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
) -> Any:
    """A field of `Options`.

    Args:
      default: the value, or a `Follows`.
      allowed: an interval such as `"[0, 1)"`, in which the value, or each value of a tuple, lies;
        choices; `bool`; or `str` for any text.
      comment: what it means, what other values do, and where the default is from.
      lengths: how many numbers a tuple may hold; () for any.
    """
    metadata = {"allowed": allowed, "comment": comment, "lengths": lengths}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """A section of a recipe. Subclasses are frozen dataclasses, made only with valid values.

    Class arguments:
      section: its name in a recipe; "" for fields outside of sections.
      recipe: a recipe that has it.
    """

    section: ClassVar[str] = ""
    recipe: ClassVar[str] = ""

    def __init_subclass__(cls, section: str | None = None, recipe: str | None = None, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.section = cls.section if section is None else section
        cls.recipe = cls.recipe if recipe is None else recipe

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for field in dataclasses.fields(self):
            if "allowed" in field.metadata and not isinstance(field.metadata["allowed"], Names):
                _check_value(self.dotted(field.name), values[field.name], field.metadata)
        if not any(isinstance(value, Follows) for value in values.values()):
            self.check_combinations()

    def check_combinations(self) -> None:
        """Refuses values that are valid one by one but not together.

        Raises:
          UserError: naming them.
        """

    @classmethod
    def dotted(cls, name: str) -> str:
        """Name of a field in a recipe, `section.name`."""
        return f"{cls.section}.{name}" if cls.section else name

    @classmethod
    def read(cls, config: ml_collections.ConfigDict) -> Self:
        """The values that a recipe has, defaults where it has none.

        As this class, or as the first of its subclasses that has all of the recipe's fields.

        Raises:
          UserError: if the section is missing, has a field that is not an option, or a wrong value.
        """
        if cls.section and cls.section not in config:
            raise UserError(
                f"method={config.get('method')!r} reads the section {cls.section!r}, which this "
                f"recipe lacks; start from --config={cls.recipe}."
            )
        given = _fields_of(config, cls.section)
        fitting = next((each for each in _subclasses(cls) if given.keys() <= _names(each)), cls)
        for name in given:
            if name not in _names(fitting):
                raise _not_an_option(cls.dotted(name), map(cls.dotted, _names(cls)))
        return fitting(**given)


def _names(cls: type[Options]) -> KeysView[str]:
    """Of its fields, in their order."""
    return {field.name: None for field in dataclasses.fields(cls)}.keys()


def _subclasses(cls: type[Options]) -> Iterator[type[Any]]:
    """A class and all that derive from it."""
    yield cls
    for each in cls.__subclasses__():
        yield from _subclasses(each)


def check(config: ml_collections.ConfigDict, classes: Iterable[type[Options]]) -> None:
    """Refuses a recipe with a field that is not an option, or with a value that cannot be.

    Args:
      config: a recipe.
      classes: all that recipes like it may have. Where several are for one section, the first one
        that has all of the recipe's fields holds.

    Raises:
      UserError: for the first field that is wrong.
    """
    by_section: dict[str, list[type[Options]]] = {}
    for cls in itertools.chain.from_iterable(map(with_sections, classes)):
        by_section.setdefault(cls.section, []).append(cls)
    sections = [name for name, value in config.items() if _is_section(value)]
    for name in sections:
        if name not in by_section:
            raise _not_an_option(name, by_section)
    read = []
    for section in ("", *sections):
        given = _fields_of(config, section)
        names = {cls: _names(cls) for cls in by_section[section]}
        fitting = [cls for cls in names if given.keys() <= names[cls]]
        for name in given:
            if not any(name in known for known in names.values()):
                dotted = by_section[section][0].dotted
                raise _not_an_option(dotted(name), map(dotted, set().union(*names.values())))
        # Without one that has them all, the one that has the most refuses.
        best = fitting[0] if fitting else max(names, key=lambda cls: len(names[cls] & given.keys()))
        read.append(best.read(config))
    for options in read:  # last, since reading the names may import JAX
        for field in dataclasses.fields(options):
            if isinstance(field.metadata.get("allowed"), Names):
                value = getattr(options, field.name)
                _check_value(options.dotted(field.name), value, field.metadata)


def replace(options: Any, changes: Mapping[str, Any]) -> Any:
    """`dataclasses.replace` that also takes dotted names of fields of sections.

    Raises:
      UserError: if there is no such field, or it may not have that value.
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
    return dataclasses.replace(options, **own)


def to_config(options: Options) -> ml_collections.ConfigDict:
    """The recipe for flags and `config.json`; fields that follow others go on doing so there."""
    config = ml_collections.ConfigDict(_values(options))
    for dotted, follows in _following(options):
        section, _, name = follows.field.rpartition(".")
        source = config[section] if section else config
        reference = source.get_ref(name) if follows.both_ways else source.get_oneway_ref(name)
        section, _, name = dotted.rpartition(".")
        (config[section] if section else config)[name] = reference
    return config


def is_default(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a field has the default of its declaration, in any of the sections of that name.

    Args:
      name: dotted.
      recipe: all fields by dotted name, lists in place of tuples.
    """
    section, _, short = name.rpartition(".")
    for cls in _subclasses(Options):
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
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.0)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"Nothing reads the option {name!r}: {hint}Correct the recipe.")


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


def with_sections(cls: type[Options]) -> list[type[Options]]:
    """A class and those of the sections that are its fields."""
    defaults = (field.default for field in dataclasses.fields(cls))
    return [cls, *(type(value) for value in defaults if isinstance(value, Options))]


def _values(options: Options) -> dict[str, Any]:
    values = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            values[field.name] = _values(value)
        elif not isinstance(value, Follows):
            values[field.name] = value
    return values


def _following(options: Options) -> Iterator[tuple[str, Follows]]:
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Options):
            yield from _following(value)
        elif isinstance(value, Follows):
            yield options.dotted(field.name), value
