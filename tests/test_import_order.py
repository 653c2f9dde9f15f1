"""Imports run one way: a room of the package knows those before it in the order data flows, and none after it."""

import pytest

from test_house import SRC, imported

PACKAGE = SRC / "medvlm_r1"
ORDER = [
    "data",
    "phantom",
    "volumes",
    "prompts",
    "rewards",
    "models",
    "training",
    "evaluation",
    "audit",
    "report",
    "serving",
    "cli",
]
# What every room may use, and what uses every room.
COMMON = {"errors", "console", "recipes", "disk", "stopping"}
TOP = {"demo", "__main__"}


def rooms_of(name):
    """Rooms and modules of the package that a file imports, wherever in the file."""
    return {
        parts[1] for parts in (m.split(".") for m in imported(PACKAGE / name)) if parts[0] == "medvlm_r1" and parts[1:]
    }


def test_every_room_has_its_place():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ORDER)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} == COMMON | TOP
    for name in COMMON:
        assert rooms_of(f"{name}.py") <= COMMON


@pytest.mark.parametrize("room", ORDER)
def test_a_room_knows_only_those_before_it(room):
    allowed = {*ORDER[: ORDER.index(room) + 1], *COMMON, *(TOP if room == "cli" else ())}
    for file in sorted((PACKAGE / room).rglob("*.py")):
        assert rooms_of(file) <= allowed, file
