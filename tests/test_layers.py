"""The architecture of the package, read from its source: layers, names and the size of functions.

A function of more than `MAX_LINES` lines needs a comment or docstring line inside it that starts
with "Long because", and one of more than `MAX_PARAMETERS` parameters (without `self` and `cls`) a
line that starts with "Many parameters because"; the line says why.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtdnn.config.layout import FEATURES, MANIFEST, RunFile, RunFolder

PACKAGE = Path(__file__).parents[1] / "mtdnn"

# From the bottom up. A sub-package imports only from those in lower layers.
LAYERS = (
    ("errors",),
    ("machine",),
    ("config",),
    ("data",),
    ("model",),
    ("training", "evaluation"),
    ("statistics",),
    ("reporting",),
    ("tracking",),
    ("workflow",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

MAX_LINES = 60
MAX_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


# --- what the source says ----------------------------------------------------------------------


def modules(package: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """The name of each module without `mtdnn.`, its path and its syntax tree."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        yield ".".join(parts), path, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Every import of a part of this package: at the top, in functions, under TYPE_CHECKING."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("mtdnn."):
                yield node, name.removeprefix("mtdnn.")


def functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


# --- the rules -----------------------------------------------------------------------------------


def forbidden_imports(package: Path) -> list[str]:
    """Imports from a higher layer, or from the other sub-package of the same layer."""
    wrong = []
    for module, path, tree in modules(package):
        own = module.split(".")[0]
        for node, name in imports(tree):
            other = name.split(".")[0]
            if other == own or other not in LAYER_OF:  # names of mtdnn/__init__.py
                continue
            if own == "__init__" or LAYER_OF[other] >= LAYER_OF[own]:
                wrong.append(f"{path.relative_to(package)}:{node.lineno}: {own} imports {other}")
    return wrong


def relative_imports(package: Path) -> list[str]:
    """Imports such as `from . import a`, which `code_digest` does not follow."""
    return [
        f"{path.relative_to(package)}:{node.lineno}"
        for _, path, tree in modules(package)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def full_init_files(package: Path) -> list[str]:
    """Sub-packages whose `__init__.py` holds anything but a docstring."""
    return [
        module
        for module, _, tree in modules(package)
        if module.endswith(".__init__") and (len(tree.body) != 1 or not ast.get_docstring(tree))
    ]


def misplaced_files(package: Path) -> list[str]:
    """Files and folders of the package's own folder that have no place there."""
    allowed = {"__init__.py", "__main__.py", "errors.py", "py.typed", "__pycache__"}
    allowed |= LAYER_OF.keys() - {"__main__", "errors"}
    return sorted({path.name for path in package.iterdir()} - allowed)


def private_names(package: Path) -> list[str]:
    """Uses of another module's private names: imported, or read as a module's attribute."""
    wrong = []
    for _, path, tree in modules(package):
        others = set()
        for node, name in imports(tree):
            parent, _, last = name.rpartition(".")
            if isinstance(node, ast.ImportFrom) and is_private(last):
                wrong.append(f"{path.relative_to(package)}:{node.lineno}: {parent}.{last}")
            aliases = {alias.name.rpartition(".")[2]: alias.asname for alias in node.names}
            if package.joinpath(*name.split(".")).with_suffix(".py").exists():
                others.add(aliases[last] or last)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                owner = node.value
                owner_name = owner.id if isinstance(owner, ast.Name) else ""
                owner_name = owner.attr if isinstance(owner, ast.Attribute) else owner_name
                if owner_name in others:
                    place = f"{path.relative_to(package)}:{node.lineno}"
                    wrong.append(f"{place}: {owner_name}.{node.attr}")
    return wrong


def large_functions(package: Path) -> list[str]:
    """Functions with too many lines or parameters and no line that says why."""
    wrong = []
    for _, path, tree in modules(package):
        source = path.read_text(encoding="utf-8").splitlines()
        for node in functions(tree):
            place = f"{path.relative_to(package)}:{node.lineno}: {node.name}"
            text = "\n".join(source[node.lineno - 1 : node.end_lineno])
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_LINES and not says(text, "Long because"):
                wrong.append(f"{place} has {lines} lines")
            parameters = len(parameters_of(node))
            if parameters > MAX_PARAMETERS and not says(text, "Many parameters because"):
                wrong.append(f"{place} has {parameters} parameters")
    return wrong


def parameters_of(function: Function) -> list[str]:
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [each.arg for each in every if each.arg not in ("self", "cls")]


def says(text: str, beginning: str) -> bool:
    """Whether a comment or a line of a docstring starts with the given words and continues."""
    return bool(re.search(rf'(^\s*|#\s*|"""){beginning} \w', text, re.MULTILINE))


def names_of_run_files(package: Path) -> list[str]:
    """Strings in code, parts of f-strings too, that name a file which `RunFolder` names."""
    files = {getattr(RunFolder, name) for name, f in vars(RunFolder).items() if type(f) is RunFile}
    files = {Path(name).name for name in files if Path(name).suffix} | {MANIFEST, FEATURES}
    pattern = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, sorted(files)))})(?!\w)")
    wrong = []
    for module, path, tree in modules(package):
        if module == "config.layout":
            continue
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or id(node) in docstrings:
                continue
            if isinstance(node.value, str) and (found := pattern.search(node.value)):
                wrong.append(f"{path.relative_to(package)}:{node.lineno}: {found[1]}")
    return wrong


RULES = (
    forbidden_imports,
    relative_imports,
    full_init_files,
    misplaced_files,
    private_names,
    large_functions,
    names_of_run_files,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule):
    wrong = rule(PACKAGE)
    assert not wrong, "\n".join(wrong)


# --- the rules themselves ------------------------------------------------------------------------

LONG = "\n".join(["def long():", *["    pass"] * MAX_LINES])
WIDE = "def f(a, b, c, d, e, f, g):"


@pytest.mark.parametrize(
    ("rule", "module", "text", "wrong"),
    [
        (forbidden_imports, "data/a.py", "from mtdnn.machine import files", 0),
        (forbidden_imports, "data/a.py", "from mtdnn import __version__", 0),
        (forbidden_imports, "data/a.py", "from mtdnn.data import b", 0),
        (forbidden_imports, "data/a.py", "from mtdnn.model import heads", 1),
        (forbidden_imports, "data/a.py", "import mtdnn.cli.main", 1),
        (forbidden_imports, "data/a.py", "from mtdnn import model", 1),
        (forbidden_imports, "data/a.py", "def f():\n    from mtdnn.model import heads", 1),
        (forbidden_imports, "data/a.py", "if TYPE_CHECKING:\n    import mtdnn.model.heads", 1),
        (forbidden_imports, "training/a.py", "from mtdnn.evaluation import metrics", 1),
        (forbidden_imports, "evaluation/a.py", "from mtdnn.training import loop", 1),
        (forbidden_imports, "errors.py", "from mtdnn.machine import files", 1),
        (forbidden_imports, "__init__.py", "from mtdnn.machine import files", 1),
        (relative_imports, "data/a.py", "from . import b", 1),
        (relative_imports, "data/a.py", "def f():\n    from .b import c", 1),
        (relative_imports, "data/a.py", "from mtdnn.data import b", 0),
        (full_init_files, "data/__init__.py", '"""Data."""', 0),
        (full_init_files, "data/__init__.py", "", 1),
        (full_init_files, "data/__init__.py", '"""Data."""\nfrom mtdnn.data import a', 1),
        (misplaced_files, "data/a.py", "", 0),
        (misplaced_files, "errors.py", "", 0),
        (misplaced_files, "steps.py", "", 1),
        (misplaced_files, "helpers/a.py", "", 1),
        (private_names, "data/a.py", "from mtdnn.data.b import c, _d", 1),
        (private_names, "data/a.py", "from mtdnn.data import a\na._d()", 1),
        (private_names, "data/a.py", "from mtdnn.data import a as b\nb._d()", 1),
        (private_names, "data/a.py", "import mtdnn.data.a\nmtdnn.data.a._d()", 1),
        (private_names, "data/a.py", "from mtdnn.data import a\na.d()\nself._d()", 0),
        (large_functions, "data/a.py", LONG, 1),
        (
            large_functions,
            "data/a.py",
            LONG.replace("pass", "# Long because it lists cases.", 1),
            0,
        ),
        (large_functions, "data/a.py", LONG.replace("pass", "# It is long because of that.", 1), 1),
        (large_functions, "data/a.py", LONG.replace("    pass\n", "", 1), 0),
        (large_functions, "data/a.py", "def f(a, b, c, d, e, *, f): pass", 0),
        (large_functions, "data/a.py", "def f(self, a, b, c, d, e, f): pass", 0),
        (large_functions, "data/a.py", "def f(a, b, c, d, e, *, f, **g): pass", 1),
        (large_functions, "data/a.py", f"{WIDE} pass  # Many parameters because it adds.", 0),
        (
            large_functions,
            "data/a.py",
            f'{WIDE}\n    """Add.\n\n    Many parameters because a."""',
            0,
        ),
        (names_of_run_files, "data/a.py", 'x = folder / "metrics.json"', 1),
        (names_of_run_files, "data/a.py", 'x = f"{folder}/metrics.json: is missing"', 1),
        (names_of_run_files, "data/a.py", 'x = "model/run.json"', 1),
        (names_of_run_files, "data/a.py", 'x = "run.jsonl", "other_metrics.json"', 0),
        (names_of_run_files, "data/a.py", '"""Write metrics.json."""  # metrics.json', 0),
        (names_of_run_files, "config/layout.py", 'x = "metrics.json"', 0),
    ],
)
def test_a_rule_finds_what_breaks_it(tmp_path, rule, module, text, wrong):
    path = tmp_path / module
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert len(rule(tmp_path)) == wrong
