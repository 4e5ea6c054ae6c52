"""The layers, read from the imports of every file: a layer imports only those below it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pkcompiler"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("driver",),
    ("show",),
    ("analyses", "training"),
    ("artifact", "exporting"),
    ("pruning",),
    ("scoring",),
    ("selection",),
    ("lowering", "rescaling", "symbolic"),
    ("structure",),
    ("predict",),
    ("tangent",),
    ("kernel",),
    ("report",),
    ("paths",),
    ("frontend", "data"),
    ("ops",),
    ("ir", "lang"),
    ("measured", "sparse_file"),
    (
        "diagnostics",
        "files",
        "resources",
        "codes",
        "render",
        "markup",
        "schema",
        "usercode",
        "usermodules",
        "userstreams",
        "modes",
        "arguments",
        "version",
    ),
)
"""From top to bottom. Neighbours on a line know nothing of each other, but for the foundations and what BESIDE names."""

BESIDE = {
    ("data", "lang"),
    ("arguments", "diagnostics"),
    ("modes", "diagnostics"),
    ("files", "diagnostics"),
    ("resources", "diagnostics"),
    ("render", "diagnostics"),
    ("render", "files"),
    ("usercode", "diagnostics"),
    ("usercode", "files"),
    ("usercode", "usermodules"),
    ("usercode", "userstreams"),
}

UPWARDS = {("pruning/state.py", "artifact")}
"""The one import of a layer above: a result that writes itself."""

TORCHLESS = ("ir", "lang", "diagnostics", "files", "resources", "codes", "render", "markup", "arguments", "version")

AT_HOME = {
    "lark": ("ir/syntax.py", "lang/syntax/parse.py"),
    "networkx": ("paths/topology.py", "kernel/explicit.py", "kernel/scalars.py", "show/"),
    "sympy": ("paths/count.py", "symbolic/", "predict/expected.py", "lang/check/curve_proof.py"),
    "scipy": ("kernel/", "predict/", "rescaling/", "structure/"),
    "matplotlib": ("show/",),
    "joblib": ("driver/study/",),
    "pyarrow": ("driver/study/",),
    "bokeh": ("show/",),
    "onnx": ("exporting/to_onnx.py",),
    "onnxruntime": ("exporting/to_onnx.py",),
    "click": ("cli/",),
    "rich": ("cli/", "pruning/progress.py"),
}
"""Where a package may be imported: one file per grammar for lark."""

LONGEST = 400


@cache
def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def imports(file: Path) -> tuple[str, ...]:
    """The absolute names that a file imports, at its top or inside of a function."""
    return tuple(imported(file))


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(file: Path) -> str:
    """The layer's member that a file is, or lies in."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def allowed(importer: str, imported: str) -> bool:
    rank = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    return importer == imported or rank[importer] < rank[imported] or (importer, imported) in BESIDE


def rooms_used(file: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(file) if name.startswith("pkcompiler.")}
    return {name for name in names if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def label(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_the_table_of_layers_is_complete() -> None:
    named = {name for names in LAYERS for name in names}
    assert {room(file) for file in files()} - {"__init__"} <= named


def test_the_contributing_guide_says_the_table() -> None:
    (line,) = re.findall(r"^```\n(cli  >.*?)\n```$", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    said = [set(re.findall(r"\w+", part)) for part in line.split(">")]
    ground = {"measured", "sparse_file", *LAYERS[-1]}
    assert said[:-1] == [set(layer) for layer in LAYERS[1:] if not ground & set(layer)] and "diagnostics" in said[-1]


def test_the_page_of_the_architecture_has_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## The layers")[2].partition("## Four ideas")[0], re.M)
    told = [re.findall(r"`(\w+)/?`", row) for row in rows]
    packages = [[name for name in layer if (PACKAGE / name).is_dir()] for layer in LAYERS[1:]]
    assert [set(row) for row in told[:-1]] == [set(layer) for layer in packages if layer and layer != ["codes"]]


@pytest.mark.parametrize("file", [file for file in files() if room(file) != "__init__"], ids=label)
def test_a_layer_imports_only_those_below(file: Path) -> None:
    up = {other for place, other in UPWARDS if file == PACKAGE / place}
    assert [other for other in sorted(rooms_used(file) - up) if not allowed(room(file), other)] == []


@pytest.mark.parametrize("file", [file for file in files() if room(file) in TORCHLESS], ids=label)
def test_ir_and_language_do_without_torch(file: Path) -> None:
    assert [name for name in imports(file) if name.split(".")[0] in ("torch", "numpy")] == []


def test_what_the_checker_finds_is_read_in_the_language_alone() -> None:
    """Everyone else reads typed expressions (``lang/ast.py``)."""
    readers = {label(file) for file in files() for name in imports(file) if name.startswith("pkcompiler.lang.check.facts")}
    assert readers and all(reader.startswith("pkcompiler/lang/") for reader in readers)


@pytest.mark.parametrize("package", AT_HOME)
def test_a_package_is_imported_at_home_only(package: str) -> None:
    users = [file.relative_to(PACKAGE).as_posix() for file in files() if package in {name.split(".")[0] for name in imports(file)}]
    assert [user for user in users if not user.startswith(AT_HOME[package])] == []


@pytest.mark.parametrize("folder", ["pkcompiler", "tests", "examples", "benchmarks"])
def test_no_file_is_too_long(folder: str) -> None:
    lengths = {label(file): len(file.read_text(encoding="utf-8").splitlines()) for file in (ROOT / folder).rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_the_rules_can_be_broken(tmp_path: Path) -> None:
    """The reading of imports sees both forms, inside of functions too, and the order refuses what goes up or sideways."""
    file = tmp_path / "module.py"
    file.write_text("import torch.nn as nn\ndef f():\n    from pkcompiler.paths import sweep\n")
    assert list(imported(file)) == ["torch.nn", "pkcompiler.paths.sweep"]
    assert not allowed("paths", "pruning")
    assert not allowed("ir", "lang")
    assert allowed("cli", "ir")


ITSELF = {
    frozenset({"ir.types", "ir.text", "ir.notebook", "ir.uses"}),
    frozenset({"report.report", "report.layout", "report.notebook"}),
    frozenset({"pruning.state", "artifact.write", "artifact.readme"}),
    frozenset({"symbolic.closed", "symbolic.depth", "symbolic.growth", "symbolic.latex", "symbolic.text"}),
}
"""The circles that there are: nouns that print or write themselves."""


def module(file: Path) -> str:
    name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").rstrip(".") or "pkcompiler"


def arrows() -> dict[str, set[str]]:
    """Which modules each module imports, at its top, inside of functions and for types alone."""
    known = {module(file) for file in files()}
    used: dict[str, set[str]] = {}
    for file in files():
        names = (name.removeprefix("pkcompiler.") for name in imports(file) if name.startswith("pkcompiler."))
        used[module(file)] = {name if name in known else name.rpartition(".")[0] for name in names} & known - {module(file)}
    return used


def test_nothing_imports_in_a_circle_but_what_prints_itself() -> None:
    circles = {frozenset(found) for found in nx.strongly_connected_components(nx.DiGraph(arrows())) if len(found) > 1}
    assert circles == ITSELF


def test_no_package_is_too_large() -> None:
    sizes = Counter(file.parent for file in files())
    assert {label(folder): size for folder, size in sizes.items() if size > 25} == {}


ONE_MEANING = {
    *("analyze", "rescale", "study", "schedule", "language", "files", "target", "compare", "prune", "contents", "repeat"),
    *(
        "exports",
        "computed",
        "collapse",
        "evaluate",
        "groups",
        "notebook",
        "parse",
        "products",
        "recipe",
        "run",
        "text",
        "objective",
    ),
}
"""Names of files that occur twice with one meaning, beside those of the functions of the language and of their values."""


def test_no_name_of_a_file_has_two_meanings() -> None:
    places: dict[str, set[str]] = {}
    for file in files():
        places.setdefault(file.stem, set()).add(file.parent.relative_to(PACKAGE).as_posix())
    twice = {name for name, found in places.items() if len({p for p in found if not re.search(r"\bfunctions\b", p)}) > 1}
    assert twice - {"__init__"} <= ONE_MEANING


@pytest.mark.parametrize("file", files(), ids=label)
def test_no_function_takes_more_than_six_by_position(file: Path) -> None:
    """Public entries aside, which a caller knows by their words."""
    taken = {
        node.name: [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: given for name, given in taken.items() if len(given) > 6} == {}
