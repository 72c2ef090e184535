"""The structure of the package: which packages there are, and that imports point one way."""

import ast
import collections
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "jaxrobust"

# From the ground up: a package imports only those before it, also within functions.
ORDER = (
    *("errors", "arrays", "recipes", "losses", "selection", "metrics"),
    *("engine", "data", "models", "report", "review", "methods", "tasks", "api"),
    *("main", "commands", "__init__", "__main__"),
)
# Importing package -> what it may import although it comes later, and why.
EXCEPTIONS = {
    "tasks": {"__init__"},  # the version, in the student's model card
    "commands": {"__init__"},  # the version
}
# Modules of one name in several packages, and why.
MODULES = {
    # A paper has its options in recipes/ and its steps in methods/.
    **dict.fromkeys(("bldr", "bual", "dcfs", "dhkd", "dpc", "e2oal", "l2d"), "recipes methods"),
    **dict.fromkeys(("baselines", "kd_baselines"), "recipes methods"),
    # The options of a run, and the run.
    "run": "recipes engine",
    # A command is called as what it calls.
    "compare": "report commands",
    "convert": "models commands",
    "consensus": "api commands",
    # The score of annotators, and the people behind votes.
    "annotators": "api selection",
}
MOST_LINES, MOST_LINES_OF_A_CLASS = 600, 350


def _modules():
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


TREES = _modules()


def _package(path: pathlib.Path) -> str:
    """Of a module: the package or, at the top, its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported(tree: ast.Module) -> set[str]:
    """Packages of jaxrobust that a module imports, also within its functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxrobust":
            names = {alias.name for alias in node.names}
            found |= {name if name in ORDER else "__init__" for name in names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxrobust."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {[*name, "__init__"][1] for name in names if name[0] == "jaxrobust"}
    return found


def test_nothing_but_the_listed_modules_and_packages_lies_at_the_top():
    found = {_package(path) for path in TREES}
    assert found == set(ORDER)


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package):
    allowed = {*ORDER[: ORDER.index(package) + 1], *EXCEPTIONS.get(package, ())}
    for path, tree in TREES.items():
        if _package(path) == package:
            assert _imported(tree) <= allowed, path


def test_modules_of_a_package_form_no_circle():
    """By imports at the top of the modules, which Python would meet half initialised."""
    names = {
        ".".join(("jaxrobust", *p.relative_to(PACKAGE).with_suffix("").parts)): p for p in TREES
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = collections.defaultdict(set)
    for name, path in names.items():
        for node in TREES[path].body:
            if isinstance(node, ast.ImportFrom) and node.module in names:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= {n for n in inner if n in names} or {node.module}
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, [*above, name])
            done.add(name)

    for name in list(graph):
        visit(name, [])


def test_modules_share_a_name_only_with_a_reason():
    found = collections.defaultdict(list)
    for path in TREES:
        if path.stem not in ("__init__", "__main__"):
            found[path.stem].append(_package(path))
    shared = {name: packages for name, packages in found.items() if len(packages) > 1}
    for name, packages in shared.items():
        assert set(packages) == set(MODULES.get(name, "").split()), name


def test_no_two_public_classes_share_a_name():
    found = collections.Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in found.items() if count > 1]


def test_files_and_classes_stay_short():
    for path, tree in TREES.items():
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.end_lineno:
                assert node.end_lineno - node.lineno < MOST_LINES_OF_A_CLASS, (path, node.name)
