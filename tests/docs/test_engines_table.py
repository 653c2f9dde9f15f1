"""The table of docs/reference/engines.md is recent, complete and of versions that the package allows."""

from __future__ import annotations

import re
import tomllib
from datetime import date, timedelta

import pytest
from documents import ROOT
from packaging.requirements import Requirement

PAGE = ROOT / "docs/reference/engines.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is not in an installed package")
ENGINES = ("DDP", "ZeRO-2", "ZeRO-3", "FSDP2", "vLLM server", "vLLM colocated")


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_table_is_not_older_than_half_a_year_at_the_last_release(text: str) -> None:
    """The date is compared with a release, not with today, so that a commit passes or fails for good."""
    [ran] = re.findall(r"^Last run: (\S+), in [\d.]+ minutes on .+\.$", text, re.MULTILINE)
    releases = re.findall(r"^## \[[\d.]+\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    age = max(map(date.fromisoformat, releases)) - date.fromisoformat(ran)
    assert age <= timedelta(days=180), "run make test-engines"


def test_its_versions_are_allowed(text: str) -> None:
    [line] = re.findall(
        r"^Versions: (.+?)\. The environment of vLLM: vllm \S+, torch \S+, transformers \S+\.$", text, re.MULTILINE
    )
    versions = dict(item.split(" ") for item in line.split(", "))
    assert versions.keys() == {"torch", "transformers", "trl", "accelerate", "deepspeed"}
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
    for requirement in map(Requirement, extra):
        if requirement.name in versions:
            assert versions[requirement.name] in requirement.specifier, "run make test-engines"


def test_every_engine_passed_every_check(text: str) -> None:
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows.pop(0) == ["engine", "check", "passed", "result"]
    assert [row[0] for row in rows if not re.fullmatch(r"(\d+) of \1", row[2])] == []
    checks = {engine: {row[1] for row in rows if row[0] == engine} for engine in ENGINES}
    assert sum(map(len, checks.values())) == len(rows)
    assert len(checks["DDP"]) >= 4
    assert checks["DDP"] == checks["ZeRO-2"] == checks["ZeRO-3"] == checks["FSDP2"]
    assert len(checks["vLLM server"]) >= 3
    assert len(checks["vLLM colocated"]) == 1
