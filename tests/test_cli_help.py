"""Help and completion: examples that the parser takes, names that are those of the package, and nothing slow."""

import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

from commands import verbs
from medvlm_r1.cli import ask as cli_ask
from medvlm_r1.cli import audit as cli_audit
from medvlm_r1.cli import data as cli_data
from medvlm_r1.cli import main as cli
from medvlm_r1.cli.options import find_recipe

ROOT = typer.main.get_command(cli.app)
VERBS = dict(verbs())


def named(verb):
    return " ".join(verb)


@pytest.mark.parametrize("verb", VERBS, ids=named)
def test_every_verb_explains_itself_and_its_parser_takes_its_examples(verb, tmp_path, monkeypatch, command):
    for parameter in VERBS[verb].params:
        assert (parameter.help or "").endswith((".", "?")), parameter.name
    code, out, _ = command(*verb, "--help")
    assert code == 0
    assert "Example:" in out
    monkeypatch.chdir(tmp_path)
    examples = [line.split("Example: ")[1] for line in VERBS[verb].help.splitlines() if "Example: " in line]
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert (program, *words[: len(verb)]) == ("medvlm-r1", *verb)
        context = VERBS[verb].make_context(named(verb), words[len(verb) :])
        for name in ("config", "launch"):
            if context.params.get(name):
                assert find_recipe(context.params[name]).is_file()


def test_every_verb_with_a_result_has_json():
    without = {
        verb for verb, command in VERBS.items() if "--json" not in [name for p in command.params for name in p.opts]
    }
    assert without == {("serve",), ("recipes",)}


def test_groups_show_their_help_in_the_order_of_use(command):
    for group in ((), ("data",), ("train",), ("audit",)):
        code, out, err = command(*group)
        assert (code, err) == (2, "")
        assert "Usage: medvlm-r1" in out
    assert command("--version") == (0, f"medvlm-r1 {version('medvlm-r1')}\n", "")
    assert ROOT.list_commands(None)[:4] == ["demo", "data", "train", "eval"]
    assert set(ROOT.list_commands(None)) == set(ROOT.commands)


def test_names_in_help_are_those_of_the_package():

    from medvlm_r1.audit.registry import PROBES
    from medvlm_r1.data.images.windowing import parse_window
    from medvlm_r1.data.importing.registry import READERS
    from medvlm_r1.data.readers.own import OWN_READERS

    assert {*cli_data.PUBLIC, *cli_data.OWN} == set(READERS)
    assert set(cli_data.OWN) == set(OWN_READERS)
    assert tuple(PROBES) == cli_audit.PROBES
    for name in cli_ask.WINDOWS:
        parse_window(name)


def completed(line):
    """What bash is given for a line whose last word is begun."""
    words = line.split(" ")
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_MEDVLM_R1_COMPLETE": "complete_bash"}
    code = "import sys; sys.argv = ['medvlm-r1']; from medvlm_r1.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("medvlm-r1 au", ["audit"]),
        ("medvlm-r1 audit ", ["data", "model"]),
        ("medvlm-r1 eval --max", ["--max-new-tokens"]),
        ("medvlm-r1 eval x --template no", ["no-think"]),
        ("medvlm-r1 eval ph", ["phantom-base"]),
        ("medvlm-r1 eval ", []),
        ("medvlm-r1 data import p", ["phantom", "path-vqa", "pmc-vqa", "parquet"]),
        ("medvlm-r1 audit model x --probes re", ["reasoning"]),
        ("medvlm-r1 train grpo --dry-run --mem", ["--memory"]),
        ("medvlm-r1 train grpo --config recipes/q", ["recipes/qwen2.5-vl-3b.yaml", "recipes/qwen3-vl-2b.yaml"]),
        ("medvlm-r1 ask x --window so", ["soft-tissue"]),
        ("medvlm-r1 eval x --out file", []),
    ],
)
def test_a_shell_completes(line, wanted):
    assert completed(line) == wanted


def test_bash_completes_with_the_installed_script(tmp_path):
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "medvlm-r1"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m medvlm_r1 "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {"_MEDVLM_R1_COMPLETE": "source_bash"}
    script = subprocess.run([program], env=environment, capture_output=True, text=True, check=True).stdout
    typed = f"COMP_WORDS=(medvlm-r1 tr) COMP_CWORD=1\n_medvlm_r1_completion {program}\necho ${{COMPREPLY[@]}}\n"
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{script}\n{typed}"], env=os.environ | path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("train\n", "")


SLOW = (
    "torch transformers trl peft datasets accelerate numpy scipy PIL pandas matplotlib pydicom nibabel gradio fastapi "
    "yaml jinja2 openai"
)


@pytest.mark.parametrize(
    ("arguments", "slow"),
    [
        *((f"{verb} --help", f"{SLOW} pydantic") for verb in ("", "data import", "train grpo", "audit model")),
        ("--version", f"{SLOW} rich pydantic"),
        ("audit data d --out page.html", "torch transformers matplotlib scipy.stats datasets pandas"),
    ],
)
def test_nothing_slow_is_loaded(arguments, slow, tmp_path, data_dir):
    code = (
        f"import sys; sys.argv = ['medvlm-r1', *{arguments.split()!r}]\n"
        "from medvlm_r1.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"slow = {{*{slow.split()!r}}} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    (tmp_path / "d").symlink_to(data_dir)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
