"""The record of `make test-engines`: the figures of every test, in `runs/engines.json`."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "runs/engines.json"
STARTED = time.monotonic()
VERSIONS = """
import json, sys
from importlib.metadata import version
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
"""

sys.path.insert(0, str(ROOT / "tests/training"))


@pytest.fixture(scope="session")
def vllm_python(request):
    """The interpreter of vLLM's environment."""
    return str(Path(request.config.getoption("--vllm-env"), "bin/python").absolute())


@pytest.fixture(scope="session")
def vllm_environment():
    """The environment variables of a process with vLLM on a CPU."""
    paths = [str(Path(__file__).with_name("vllm_site")), str(ROOT / "src")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture(scope="session")
def phantom(tmp_path_factory):
    """A data folder of 42 questions of PhantomVQA."""
    folder = tmp_path_factory.mktemp("phantom") / "data"
    command = [sys.executable, "-m", "medvlm_r1", "data", "import", "phantom", "--n", "14", "--out", str(folder)]
    subprocess.run(command, check=True, timeout=300)
    return folder


def pytest_terminal_summary(terminalreporter, config):
    """Write what the tests recorded."""
    reports = [report for kind in ("passed", "failed", "error") for report in terminalreporter.stats.get(kind, [])]
    rows = [
        {"test": report.nodeid.partition("::")[2], "outcome": report.outcome, **dict(report.user_properties)}
        for report in reports
        if report.nodeid.startswith("tests/engines/")
    ]
    if not rows:
        return
    vllm = [Path(config.getoption("--vllm-env"), "bin/python"), "-c", VERSIONS, "vllm", "torch", "transformers"]
    record = {
        "date": datetime.date.today().isoformat(),
        "minutes": round((time.monotonic() - STARTED) / 60, 1),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "packages": {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "deepspeed")},
        "vllm": json.loads(subprocess.check_output(vllm)),
        "rows": rows,
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
