"""Inside the library data flows one way: a package imports only from those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "hnet_vjepa"
LAYERS = (  # from the bottom to the top; rooms of one line do not import each other
    {"errors", "tokenization"},
    {"specs", "migration"},
    {"config", "utils", "calibration", "zoo"},
    {"data"},
    {"models"},
    {"losses"},
    {"checkpoint"},
    {"viz", "planning"},
    {"trainers", "export"},
    {"pipeline"},
)
FLOOR = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def rooms_imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "hnet_vjepa":
            names = [f"hnet_vjepa.{alias.name}" for alias in node.names]
        found |= {room(name) for name in names if name.startswith("hnet_vjepa.")}
    return found


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOOR)


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_nothing_is_imported_from_above_or_beside(name: str) -> None:
    files = [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").is_file() else sorted((ROOT / name).rglob("*.py"))
    for file in files:
        wrong = {r for r in rooms_imported(file) - {name} if FLOOR.get(r, len(LAYERS)) >= FLOOR[name]}
        assert not wrong, f"{file.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"
