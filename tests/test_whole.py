"""What `make coverage` says of the modules that must be run to their last line."""

from pathlib import Path

import medvlm_r1
from whole import WHOLE, not_whole

SRC = Path(medvlm_r1.__file__).parent


def test_every_pattern_names_modules_that_are_there():
    for pattern in WHOLE:
        assert list(SRC.glob(pattern)), pattern


def test_a_line_that_is_not_run_is_named():
    files = {"src/medvlm_r1/a/x.py": {"missing_lines": [3, 9]}, "src/medvlm_r1/a/y.py": {"missing_lines": []}}
    assert not_whole({"files": files}, ("a/*.py",)) == ["a/x.py: no test runs line 3, 9"]
    assert not_whole({"files": files}, ("a/y.py",)) == []
    assert not_whole({"files": files}, ("b/y.py",)) == ["b/y.py: no such module was measured"]
