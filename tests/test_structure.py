"""How the package is built: imports go one way, in no circle, and a name means one thing."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "audiovq"
FLOORS = (
    {"errors"},
    {"io", "config", "distributed"},
    {"audio", "nn"},
    {"data", "kernels", "plots"},
    {"speech", "image"},
    {"prior"},
    {"tokenizer", "export"},
    {"batch", "tables", "evaluation"},
    {"training", "ray", "units"},
    {"recipe"},
    {"cli"},
)
"""Packages and modules, lowest first: each imports from those under it alone."""


def modules(package: Path) -> dict[str, Path]:
    """Files by module name without the package's; `__init__` and `__main__` of the package left out."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "audiovq":
            module = (node.module or "").removeprefix("audiovq").removeprefix(".")
            for alias in node.names:
                name = f"{module}.{alias.name}".strip(".")
                found |= {name} & known or {module} & known
    return found


def upward(package: Path) -> list[str]:
    """Imports of a module from its own floor, outside its own package, or from one above."""
    floors = {name: number for number, names in enumerate(FLOORS) for name in names}
    files = modules(package)
    found = []
    for module, path in files.items():
        own = module.partition(".")[0]
        for other in sorted(imports(path, set(files))):
            there = other.partition(".")[0]
            if there != own and floors[there] >= floors[own]:
                found.append(f"{module} -> {other}")
    return found


def test_imports_go_down() -> None:
    assert upward(PACKAGE) == []


def test_an_import_that_goes_up_is_found(tmp_path: Path) -> None:
    for name, text in {
        "nn/blocks.py": "from audiovq.speech import model\n",
        "nn/stft.py": "def stft():\n    from audiovq.data.crops import Batch\n",
        "speech/model.py": "from audiovq.nn.blocks import TimeConv\n",
        "data/crops.py": "from audiovq.data import index\n",
        "data/index.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert upward(tmp_path) == ["nn.blocks -> speech.model", "nn.stft -> data.crops"]


def test_imports_make_no_circle() -> None:
    files = modules(PACKAGE)
    graph = {module: imports(path, set(files)) - {module} for module, path in files.items()}
    assert sum(map(len, graph.values())) > 200, "imports were found"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_few_modules_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_a_public_name_has_one_meaning() -> None:
    """A class, function or constant without an underscore is defined in one module."""
    places: dict[str, list[str]] = {}
    for module, path in modules(PACKAGE).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names = [node.name]
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [t.id for t in targets if isinstance(t, ast.Name)]
            for name in names:
                if not name.startswith("_") and module not in places.setdefault(name, []):
                    places[name].append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
