"""requirements-dev.lock pins what pyproject.toml asks for, and says nothing of where it was made."""

import re

from packaging.utils import canonicalize_name

from lock import ROOT, asked_for


def test_the_lock_pins_every_dependency_within_its_range():
    lines = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    # Name and version alone: no address of an index, no path, no option.
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin)] == []
    version = dict(pin.split("==") for pin in pins)
    for need in asked_for():
        assert need.specifier.contains(version[canonicalize_name(need.name)], prereleases=True), f"make lock: {need}"
