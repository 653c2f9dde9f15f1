"""Every recipe: it says what it is, passes the dry run with a tiny model of its class, and its devices can be read."""

import json
import shlex

import pytest
import yaml

from medvlm_r1.recipes import recipe
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.training.config import load_config
from medvlm_r1.training.dry_run.settings import Launch, read_launch
from plan_models import write_model

FOLDER = recipe("paper.yaml").parent
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml") if not path.name.startswith("phantom"))
KINDS = {"Qwen2-VL-2B": "qwen2_vl", "Qwen2.5-VL-3B": "qwen2_5_vl", "Qwen3-VL-2B": "qwen3_vl"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {kind: write_model(tmp_path_factory.mktemp(kind), kind) for kind in KINDS.values()}


def kind_of(name):
    model = yaml.safe_load((FOLDER / name).read_text())["model"]
    [kind] = [kind for start, kind in KINDS.items() if model == f"Qwen/{start}-Instruct"]
    return kind


@pytest.mark.parametrize("name", RECIPES)
def test_it_has_its_source_and_passes_the_dry_run(name, models, data_dir, command):
    head = [line for line in (FOLDER / name).read_text().split("\nmodel:")[0].splitlines() if line != "#"]
    assert all(line.startswith("# ") for line in head)
    for start in ("# Source:", "# Departs from"):
        assert any(line.startswith(start) for line in head), start
    kind = kind_of(name)
    arguments = [f"model={models[kind]}", f"data.train={data_dir}"]
    code, out, error = command("train", "grpo", "--config", FOLDER / name, "--dry-run", "--json", *arguments)
    assert code == 0, error
    record = json.loads(out)
    assert record["model"]["family"] == kind
    assert record["prompts"]["count"] == 4  # the MRI questions
    assert (record["prompts_per_step"], record["completions_per_step"]) == (4, 16)
    assert record["shares"] is True
    assert record["memory"]["shared"]["activations"] < record["memory"]["plain"]["activations"]


def test_the_papers_settings():
    config = load_config(recipe("paper.yaml"))
    assert (config.model, config.template, config.lora) == ("Qwen/Qwen2-VL-2B-Instruct", "medvlm-r1", None)
    assert (config.min_pixels, config.max_pixels) == (3136, 401408)
    assert [(reward.name, reward.weight) for reward in config.rewards] == [("accuracy_paper", 1), ("format_paper", 1)]
    wanted = {"beta": 0.04, "learning_rate": 1e-6, "lr_scheduler_type": "linear", "temperature": 1.0, "bf16": True}
    wanted |= {"num_generations": 4, "max_completion_length": 512, "num_train_epochs": 2, "num_iterations": 1}
    assert {name: config.trainer[name] for name in wanted} == wanted
    # 4 prompts a step: 600 questions twice are 300 steps.
    assert config.trainer["per_device_train_batch_size"] * config.trainer["gradient_accumulation_steps"] == 4 * 4


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("clean.yaml", {"data", "out"}),
        ("consistent.yaml", {"out", "rewards"}),
        ("grounded.yaml", {"out", "rewards"}),
        ("dr-grpo.yaml", {"out", "trainer.loss_type", "trainer.scale_rewards"}),
        ("think-after.yaml", {"out", "template", "rewards"}),
        ("no-think.yaml", {"out", "template", "rewards", "trainer.max_completion_length"}),
        ("qwen3-vl-2b.yaml", {"out", "model"}),
        ("qwen2.5-vl-3b.yaml", {"out", "model", "trainer.gradient_checkpointing"}),
    ],
)
def test_variants_differ_from_the_paper_in_what_they_say(name, differs):
    def flat(file):
        given = load_config(recipe(file)).model_dump()
        trainer = given.pop("trainer")
        return given | {f"trainer.{key}": value for key, value in trainer.items()}

    paper, variant = flat("paper.yaml"), flat(name)
    assert {key for key in paper.keys() | variant.keys() if paper.get(key) != variant.get(key)} == differs


def test_grounded_on_phantomvqa_differs_from_the_demo_in_its_reward():
    given = [load_config(recipe(name)).model_dump() for name in ("phantom.yaml", "phantom-grounded.yaml")]
    rewards = [[reward["name"] for reward in config.pop("rewards")] for config in given]
    assert rewards == [["accuracy_paper", "format_paper"], ["grounded", "format_paper"]]
    assert given[0] | {"out": ""} == given[1] | {"out": ""}


def test_the_curriculum_differs_from_the_demo_in_its_questions():
    given = [load_config(recipe(name)).model_dump() for name in ("phantom.yaml", "phantom-curriculum.yaml")]
    assert given[1]["data"] == given[0].pop("data") | {"pass_rate": [0.1, 0.9], "order": "easy-to-hard"}
    assert given[1]["resample_dead_groups"] == 2
    own = {name: given[1][name] for name in ("out", "data", "resample_dead_groups")}
    assert given[0] | own == given[1]


def test_vllm_leaves_the_tower_alone(models):
    """TRL does not empty vLLM's cache of image features, so they must not change."""
    from medvlm_r1.training.dry_run.shape import read_shape

    for name in ("paper-vllm.yaml", "paper-vllm-server.yaml"):
        config = load_config(recipe(name))
        assert config.trainer["use_vllm"] is True
        shape = read_shape(models["qwen2_vl"], config)
        assert not shape.trains_tower
        assert shape.parameters.adapters > 0


def test_the_server_is_started_as_trl_does() -> None:
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    command = build_command(ScriptArguments(model="any"))
    options = shlex.join(command[command.index("--weight-transfer-config") :])
    for file in (recipe("paper-vllm-server.yaml"), FOLDER.parent / "docs/how-to/many-machines.md"):
        words = file.read_text().replace("\\\n", " ").replace("#", " ").split()
        assert "VLLM_SERVER_DEV_MODE=1 vllm serve Qwen/Qwen2-VL-2B-Instruct" in " ".join(words)
        assert options in " ".join(words)


@pytest.mark.parametrize(
    ("text", "alone", "after"),
    [
        ("<answer>(B)</answer>\n", 1.0, 0.0),
        ("<answer>B</answer>\n<think>It is bright.\nSo B.</think>", 0.0, 1.0),
        ("<answer>B</answer><think>.</think>", 0.0, 0.0),
        ("<answer></answer><think>It is bright.</think>", 0.0, 0.0),
        ("<answer> . </answer>", 0.0, 0.0),
        ("<think>It is bright.</think><answer>B</answer>", 0.0, 0.0),
        ("<answer><answer>B</answer>", 0.0, 0.0),
        ("<answer>B</answer><think>a</think>b<think>c</think>", 0.0, 0.0),
        ("B", 0.0, 0.0),
    ],
)
def test_format_rewards_of_the_variants(text, alone, after):
    names = ("format_no_think", "format_think_after")
    rewards = [resolve_reward(f"medvlm_r1.rewards.{name}:{name}") for name in names]
    for completion in (text, [{"role": "assistant", "content": text}]):
        assert [reward(prompts=["p"], completions=[completion]) for reward in rewards] == [[alone], [after]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp.yaml", Launch(processes=2)),
        ("fsdp2.yaml", Launch(processes=8, sharding="fsdp2")),
        ("zero2.yaml", Launch(processes=2, sharding="zero2")),
        ("zero3.yaml", Launch(processes=8, sharding="zero3")),
    ],
)
def test_launch_files(name, expected):
    from accelerate.commands.config.config_args import load_config_from_file

    file = FOLDER / "accelerate" / name
    config = load_config_from_file(str(file))
    assert config.mixed_precision == "bf16"
    assert config.num_machines == 1
    assert read_launch(file) == expected


def test_the_dry_run_takes_a_launch_file(models, data_dir, command):
    arguments = [f"model={models['qwen2_vl']}", f"data.train={data_dir}", "trainer.gradient_accumulation_steps=2"]
    given = ["--dry-run", "--json", "--launch", FOLDER / "accelerate" / "zero2.yaml"]
    code, out, error = command("train", "grpo", "--config", FOLDER / "paper.yaml", *given, *arguments)
    assert code == 0, error
    record = json.loads(out)
    assert (record["devices"], record["sharding"], record["prompts_per_step"]) == (2, "zero2", 4)


def test_recipes_are_listed_shown_and_copied(command, tmp_path):
    code, out, _ = command("recipes")
    assert code == 0
    assert out.splitlines() == [f"recipes/{file.name}" for file in sorted(FOLDER.glob("*.yaml"))]
    text = (FOLDER / "paper.yaml").read_text(encoding="utf-8")
    assert command("recipes", "paper.yaml")[:2] == (0, text)
    copy = tmp_path / "mine.yaml"
    assert command("recipes", "recipes/paper.yaml", "--copy", copy)[0] == 0
    assert copy.read_text(encoding="utf-8") == text
    for arguments, words in (
        (("paper.yaml", "--copy", copy), "exists; give the name of a new file"),
        (("--copy", copy), "needs the NAME"),
        (("papr.yaml",), "did you mean 'paper.yaml'"),
    ):
        code, _, error = command("recipes", *arguments)
        assert code == 2
        assert words in error


def test_the_recipes_of_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/phantom.yaml").touch()
    monkeypatch.setattr("medvlm_r1.recipes.__file__", str(tmp_path / "recipes.py"))
    assert recipe("") == tmp_path / "recipes"
    assert recipe("phantom.yaml") == tmp_path / "recipes/phantom.yaml"
