"""Imports run one way: a room of the package knows those before it in the order data flows, and none after it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import medvlm_r1

SRC = Path(medvlm_r1.__file__).parent
ORDER = (
    "data",
    "phantom",
    "prompts",
    "rewards",
    "models",
    "training",
    "evaluation",
    "audit",
    "report",
    "serving",
    "cli",
)
# What every room may use, and what uses every room.
COMMON = {"errors", "console", "recipes", "disk", "stopping"}
TOP = {"demo", "__main__"}
ROOMS = sorted(path.name for path in SRC.iterdir() if path.is_dir() and (path / "__init__.py").exists())


def imported(file: Path) -> set[str]:
    """Rooms and modules of the package that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "medvlm_r1" and rest:
                found.add(rest.split(".")[0])
    return found


def test_every_room_has_its_place() -> None:
    assert set(ROOMS) == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_a_room_knows_only_those_before_it(room: str) -> None:
    allowed = {*ORDER[: ORDER.index(room) + 1], *COMMON, *(TOP if room == "cli" else ())}
    for file in sorted((SRC / room).rglob("*.py")):
        assert imported(file) <= allowed, f"{file.relative_to(SRC)} imports {imported(file) - allowed}"


def test_what_all_rooms_use_knows_none_of_them() -> None:
    for name in COMMON:
        assert imported(SRC / f"{name}.py") <= COMMON


def test_only_the_top_stands_above_the_rooms() -> None:
    files = {path.stem for path in SRC.glob("*.py")} - {"__init__"}
    assert files == COMMON | TOP
    assert len(files) <= 8
