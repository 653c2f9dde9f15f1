"""Data, audit and report verbs, and models on a server, run without the packages of any extra."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medvlm_r1.errors import UserError, explain_missing_extra

ASK = "--image images/0.png --question 'Which organ?' --option liver --option brain"
RUNS = f"""data import csv own.csv --out own
data check own --allow-near
data split own --out parts --part first=4 --part second=4 --by none
audit data own --out audit_data.html
eval SERVER --data own --out a
eval SERVER --data own --out b
compare a b
ask SERVER {ASK}
audit model SERVER --data own --out audit
report a b audit --out report.html
doctor
recipes""".splitlines()
NEEDS_TRAIN = f"""eval phantom-base --data own --out c
ask phantom-base {ASK}
audit model phantom-base --data own --out audit2
data check own --model phantom-base
train grpo --config recipes/phantom.yaml data.train=own
train grpo --config recipes/phantom.yaml data.train=own --dry-run
train sft --config recipes/phantom-sft.yaml data.train=own
demo --out e""".splitlines()
NEEDS_SERVE = "serve SERVER --port 0"
ALL = [*RUNS, *NEEDS_TRAIN, NEEDS_SERVE]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Exit code and output of every command, run one after the other in one process on eight questions."""
    folder = tmp_path_factory.mktemp("core")
    (folder / "images").mkdir()
    lines = ["image,question,option_a,option_b,answer,modality"]
    for index in range(8):
        Image.effect_noise((40 + index, 30), 80).convert("RGB").save(folder / f"images/{index}.png")
        lines.append(f"images/{index}.png,Which organ is shown in {index}?,liver,brain,{'AB'[index % 2]},CT")
    (folder / "own.csv").write_text("\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("without_extras.py")],
        input="\n".join(ALL),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(ALL, map(tuple, map(json.loads, done.stdout.splitlines())), strict=True))


@pytest.mark.parametrize("statement", RUNS)
def test_runs_in_the_core(statement, outputs):
    code, output = outputs[statement]
    assert code == 0, output


@pytest.mark.parametrize("statement", [*NEEDS_TRAIN, NEEDS_SERVE])
def test_a_missing_extra_is_named(statement, outputs):
    code, output = outputs[statement]
    extra = "serve" if statement == NEEDS_SERVE else "train"
    assert code == 1
    assert f"pip install 'medvlm-r1[{extra}]'" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_a_class_names_the_extra(monkeypatch):
    from medvlm_r1.serving.medvlm import MedVLM

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"medvlm-r1\[train\]"):
        MedVLM.load("phantom-base")


def test_other_missing_packages_keep_their_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), explain_missing_extra():
        import no_such_package  # noqa: F401


def test_every_optional_package_belongs_to_an_extra():
    import tomllib

    from medvlm_r1.errors import extra_of

    file = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra in ("train", "serve", "smolvlm"):
        for requirement in extras[extra]:
            package = requirement.partition(">")[0]
            # jinja2, which the core has, installs markupsafe.
            assert extra_of(package) == (None if package == "markupsafe" else extra)


def test_the_listed_tests_are_there():
    root = Path(__file__).parents[2]
    lines = (root / "tests" / "core" / "tests.txt").read_text(encoding="utf-8").split()
    names = [line.removeprefix("--deselect=").partition("::")[0] for line in lines]
    assert len(names) > 20
    assert [name for name in names if not (root / name).exists()] == []
