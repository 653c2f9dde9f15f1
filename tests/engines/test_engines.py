"""DDP, DeepSpeed and FSDP2 with two processes on CPUs take the steps that one process takes (`make test-engines`).

Each engine is started twice: for all runs, the last of which gets SIGTERM, and to resume that one.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from questions import write_mixed
from test_sharded import difference, plain_descent

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.models.load import load_policy
from medvlm_r1.models.processor import load_processor
from medvlm_r1.prompts.templates import messages
from medvlm_r1.recipes import recipe

pytestmark = pytest.mark.engines
ROOT = Path(__file__).parents[2]
OPTIONS = ["--num_processes=2", "--mixed_precision=no", "--main_process_port=0"]
ENGINES = {
    name: ["bash", str(recipe("accelerate/preemptible.sh")), "--config_file", str(recipe(f"accelerate/{file}.yaml"))]
    for name, file in {"DDP": "ddp", "ZeRO-2": "zero2", "ZeRO-3": "zero3", "FSDP2": "fsdp2"}.items()
}
CASES = {
    f"{'lora' if lora else 'full'}-beta{beta}-{images}": {"lora": lora, "beta": beta, "images": images}
    for lora, beta, images in product([False, True], [0.0, 0.04], ["one", "mixed"])
}
# AdamW moves weights without a gradient, but not those whose gradient is None: one process has no gradient of the tower
# in a step without images, several have one of 0. So every question of these runs has an image.
ADAMW = {"beta": 0.04, "images": "one", "optim": "adamw_torch"}
CASES |= {
    "adamw": {"lora": False, **ADAMW},
    "tied-lora": {"lora": True, "tied": True, **ADAMW},
    "tied": {"lora": False, "tied": True, **ADAMW},
}
"""Runs by name. The last one gets SIGTERM after its second step."""
STOPPED = list(CASES)[-1]
TOKENS = 40
PATIENCE = 300
"""Seconds for a run, or for a launch with its first run."""


@dataclass
class Launched:
    """The runs of an engine."""

    folder: Path
    printed: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    exit_code: int = 0
    """Of the launch whose last run got SIGTERM."""
    checkpoints: list[str] = field(default_factory=list)
    """Those of the stopped run, before it resumed."""

    def finished(self, names):
        return [name for name in names if (self.folder / name / "model").is_dir()]

    def launch(self, launcher, configs, *, preempt=None):
        """Run cases under a launcher, and again without the first one that did not finish.

        Returns:
            The exit code of the last launch.
        """
        waiting = [name for name in configs if name not in self.failures]
        # The environment has a borrowed package, and no command.
        accelerate = self.folder / "bin/accelerate"
        accelerate.parent.mkdir(exist_ok=True)
        accelerate.write_text(f'#!/bin/sh\nexec {sys.executable} -m accelerate.commands.accelerate_cli "$@"\n')
        accelerate.chmod(0o755)
        while True:
            cases = [
                {"config": str(configs[name]), "out": str(self.folder / name), "preempt": name == preempt}
                for name in waiting
            ]
            file, log = self.folder / "cases.json", self.folder / "log"
            file.write_text(json.dumps(cases))
            command = [*launcher, str(Path(__file__).with_name("engine_run.py")), str(file)]
            paths = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests/training")]
            environment = {
                **os.environ,
                "PATH": os.pathsep.join([str(accelerate.parent), os.environ["PATH"]]),
                "PYTHONPATH": os.pathsep.join(paths),
                "DS_ACCELERATOR": "cpu",
                # DeepSpeed compiles one when it first runs.
                "TORCH_EXTENSIONS_DIR": str(Path(sys.prefix) / "torch_extensions"),
            }
            with log.open("w") as stream:
                process = psutil.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
                done, previous = self.finished(waiting), None
                while process.poll() is None and done != previous:
                    previous = done
                    with suppress(psutil.TimeoutExpired):
                        process.wait(PATIENCE)
                    done = self.finished(waiting)
                hangs = process.poll() is None
                if hangs:
                    for child in [*process.children(recursive=True), process]:
                        child.kill()
            self.printed += log.read_text(errors="replace")
            code = process.wait()
            waiting = [name for name in waiting if name not in done]
            if not waiting or (waiting == [preempt] and not hangs):
                return code
            how = f"no run finished within {PATIENCE} s" if hangs else f"exit code {code}"
            self.failures[waiting.pop(0)] = f"{how}\n{self.printed[-6000:]}"


@pytest.fixture(scope="module")
def tied_base(tmp_path_factory):
    """The embedded base in float32: adapters are merged in the dtype of the base."""
    folder = tmp_path_factory.mktemp("base")
    policy = load_policy("phantom-base", dtype="float32", device="cpu")
    policy.model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def configs(tmp_path_factory, tiny_policy_dir, data_dir, tied_base):
    """The configuration of every case."""
    folder = tmp_path_factory.mktemp("configs")
    mixed = write_mixed(tmp_path_factory.mktemp("mixed"))

    def configure(name, *, images, optim="sgd", tied=False, **options):
        def write(**changes):
            changes["trainer"] |= {"report_to": "none", "max_completion_length": 6, "optim": optim}
            # AdamW would scale gradients that are rounding alone to whole steps.
            changes["trainer"]["adam_epsilon"] = 1e-5
            file = folder / f"{name}.yaml"
            file.write_text(yaml.safe_dump({"method": "grpo", "out": "-", **changes}))
            return file

        model = tied_base if tied else tiny_policy_dir
        return plain_descent(write, mixed if images == "mixed" else data_dir, model=model, **options)

    return {name: configure(name, **case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def launched(configs, tmp_path_factory):
    """Launch an engine once, or one process."""

    @functools.cache
    def launch(engine):
        runs = Launched(tmp_path_factory.mktemp(engine))
        if engine == "one":
            runs.launch([sys.executable], configs)
            return runs
        runs.exit_code = runs.launch([*ENGINES[engine], *OPTIONS], configs, preempt=STOPPED)
        runs.checkpoints = [file.name for file in (runs.folder / STOPPED / "checkpoints").glob("checkpoint-*")]
        runs.launch([*ENGINES[engine], *OPTIONS], {STOPPED: configs[STOPPED]})
        return runs

    return launch


@pytest.mark.parametrize("case", list(CASES)[:-1])
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_take_the_steps_of_one(launched, configs, record_property, engine, case):
    record_property("engine", engine)
    record_property("check", f"steps of one process, {'AdamW' if CASES[case].get('optim') else 'plain SGD'}")
    compare(launched, configs, record_property, engine, case)
    assert "TRL's way" not in launched(engine).printed


def compare(launched, configs, record_property, engine, case):
    """Compare a run of an engine with that of one process, and record the differences."""
    one, two = launched("one"), launched(engine)
    assert case not in one.failures, one.failures[case]
    assert case not in two.failures, two.failures[case]
    base = Path(yaml.safe_load(configs[case].read_text())["model"])
    steps, weights = difference(one.folder / case, two.folder / case, base)
    record_property("loss and gradient norm", steps)
    record_property("weights", weights)
    adamw = "optim" in CASES[case]
    assert steps <= (1e-3 if adamw else 1e-4)
    assert weights <= (1e-2 if adamw else 1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_stopped_by_sigterm_resumes(launched, configs, record_property, engine):
    record_property("engine", engine)
    record_property("check", "SIGTERM, then resume")
    runs = launched(engine)
    record_property("exit code", runs.exit_code)
    assert runs.exit_code == 0, runs.printed[-6000:]
    assert runs.checkpoints == ["checkpoint-2"]
    compare(launched, configs, record_property, engine, STOPPED)


LOAD = """
import json, sys
from transformers import AutoModelForImageTextToText
for folder in sys.argv[1:]:
    info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)[1]
    print(json.dumps([folder, {key: sorted(map(str, value)) for key, value in info.items() if value}]))
"""


@pytest.fixture(scope="module")
def loaded(launched):
    """What plain transformers reports of every written model."""
    folders = [str(launched(engine).folder / case / "model") for engine, case in product(ENGINES, CASES)]
    folders = [folder for folder in folders if Path(folder).is_dir()]
    printed = subprocess.check_output([sys.executable, "-I", "-c", LOAD, *folders], text=True, timeout=600)
    return dict(json.loads(line) for line in printed.splitlines())


@pytest.mark.parametrize("engine", ENGINES)
def test_plain_transformers_loads_the_written_models(launched, configs, loaded, record_property, engine):
    record_property("engine", engine)
    record_property("check", "written models load in transformers")
    reports = {folder: report for folder, report in loaded.items() if folder.startswith(str(launched(engine).folder))}
    assert len(reports) == len(CASES)
    assert not any(reports.values()), reports


TIED = ("tied", "tied-lora")


@pytest.fixture(scope="module")
def vllm_replies(launched, tied_base, phantom, vllm_python, vllm_environment, tmp_path_factory):
    """Greedy replies of every written tied model in vLLM, by model; and (text, image) per prompt."""
    models = [launched(engine).folder / case / "model" for engine, case in product(ENGINES, TIED)]
    processor = load_processor(tied_base)
    prompts = [
        (processor.apply_chat_template(messages(sample), add_generation_prompt=True), str(phantom / sample.images[0]))
        for sample in read_folder(phantom)[:8]
    ]
    requests = {"models": [str(model) for model in models if model.is_dir()], "prompts": prompts, "max_tokens": TOKENS}
    file = tmp_path_factory.mktemp("vllm") / "requests.json"
    file.write_text(json.dumps(requests))
    script = Path(__file__).with_name("reload_run.py")
    subprocess.run(
        [vllm_python, script, file, file.with_name("replies.json")], env=vllm_environment, check=True, timeout=600
    )
    replies = json.loads(file.with_name("replies.json").read_text())
    return dict(zip(requests["models"], replies, strict=True)), prompts


def logprobs(policy, prompt, tokens):
    """Log-probabilities of a reply's tokens by transformers' plain forward."""
    text, image = prompt
    inputs = policy.processor(text=[text], images=[load_image(image)], return_tensors="pt")
    reply = torch.tensor([tokens])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], reply], dim=1)
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        inputs[name] = torch.cat([inputs[name], torch.full_like(reply, value)], dim=1)
    with torch.no_grad():
        logits = policy.model(**inputs).logits[:, -len(tokens) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, reply[..., None])[0, :, 0].tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_vllm_loads_the_written_models(launched, vllm_replies, tied_base, record_property, engine):
    """Texts are not compared: where two tokens are about equally likely, rounding decides."""
    record_property("engine", engine)
    record_property("check", "written models load in vLLM, with the log-probabilities of transformers")
    replies, prompts = vllm_replies
    base = load_policy(str(tied_base), dtype="float32", device="cpu")
    for case in TIED:
        model = str(launched(engine).folder / case / "model")
        policy = load_policy(model, dtype="float32", device="cpu")
        moved = 0.0
        for prompt, reply in zip(prompts, replies[model], strict=True):
            assert logprobs(policy, prompt, reply["tokens"]) == pytest.approx(reply["logprobs"], abs=1e-4)
            pairs = zip(logprobs(base, prompt, reply["tokens"]), reply["logprobs"], strict=True)
            moved = max(moved, *(abs(before - after) for before, after in pairs))
        # Adapters move little in these few steps.
        assert moved > 0.01
