"""Commands in the documentation: the parser takes them, and the recipes they name are there."""

import re
import shlex

import pytest
from documents import ROOT, commands, inline_commands

from commands import parse_command
from medvlm_r1.recipes import recipe

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_parser_takes_every_command(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    lines = commands(text) + (inline_commands(text) if page.name == "README.md" else [])
    for line in lines:
        program, *words = shlex.split(line)
        if program == "accelerate":
            words = words[words.index("medvlm_r1") + 1 :]
        # The results page says of SEED that it stands for a number.
        parse_command(program, ["0" if word == "SEED" else word for word in words])
        for name in re.findall(r"recipes/([\w./-]+\.yaml)", line):
            assert recipe(name).is_file(), name


def test_commands_are_found():
    lines = {page.name: commands(page.read_text(encoding="utf-8")) for page in PAGES}
    assert len(lines["your-data.md"]) >= 15
    assert any("accelerate launch" in line for line in lines["many-machines.md"])
    assert inline_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    with pytest.raises(AssertionError, match="no command"):
        parse_command("medvlm-r1", ["trian"])
