"""Wrong values under `trainer` are refused before TRL, data or weights are loaded."""

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from trl import GRPOTrainer

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training import options
from medvlm_r1.training.arguments import training_arguments
from medvlm_r1.training.config import load_config
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.limits import narrowed


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("temperature", "0", "greater than 0"),
        ("temperature", ".nan", "a finite number"),
        ("learning_rate", "-1", "greater than or equal to 0"),
        ("learning_rate", ".inf", "a finite number"),
        ("beta", "-0.1", "greater than or equal to 0"),
        ("top_p", "2", "less than or equal to 1"),
        ("top_k", "-1", "greater than or equal to 0"),
        ("min_p", "1.5", "less than or equal to 1"),
        ("repetition_penalty", "0", "greater than 0"),
        ("num_generations", "1", "greater than or equal to 2"),
        ("max_completion_length", "0", "greater than or equal to 1"),
        ("max_completion_length", "null", "int"),
        ("max_steps", "0", "greater than or equal to 1 or -1"),
        ("num_train_epochs", ".nan", "a finite number"),
        ("gradient_accumulation_steps", "0", "greater than or equal to 1"),
        ("per_device_train_batch_size", "-8", "greater than or equal to 1"),
        ("generation_batch_size", "0", "greater than or equal to 1"),
        ("epsilon", "-0.1", "greater than or equal to 0"),
        ("num_iterations", "0", "greater than or equal to 1"),
        ("save_steps", "0", "greater than 0"),
        ("adam_beta2", "1", "less than 1"),
        ("loss_type", "foo", "'grpo', 'dapo'"),
        ("importance_sampling_level", "foo", "'token' or 'sequence'"),
        ("scale_rewards", "foo", "bool | 'group' | 'batch' | 'none'"),
        ("log_level", "foo", "'detail'"),
        ("ddp_backend", "foo", "'nccl'"),
        ("model_init_kwargs", "foo", "dict[str, Any]"),
        ("vllm_gpu_memory_utilization", "2", "less than or equal to 1"),
    ],
)
def test_range_and_choices_are_in_the_message(configure, field, value, wanted):
    with pytest.raises(UsageError) as refusal:
        configure("grpo", f"trainer.{field}={value}")
    assert f"'trainer.{field}' is " in str(refusal.value)
    assert wanted in str(refusal.value).partition("; wanted ")[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards=[{name: accuracy_paper, weight: .nan}]", r"'rewards\.0\.weight' is nan: .*finite"),
        ("rewards=[{name: accuracy_paper, weight: -.inf}]", r"'rewards\.0\.weight' is -inf: .*finite"),
        ("rewards=[{name: accuracy_paper, weight: true}]", r"'rewards\.0\.weight' is True: expected a number"),
        ("rewards=[{name: accuracy_paper, weight: 0}]", "all weights of rewards are 0"),
        ("seed=5000000000", "'seed' is 5000000000: .*less than 4294967296"),
        ("trainer.use_transformers_paged=true", "'trainer.use_transformers_paged' cannot be used here"),
        ("trainer.deepspeed=nowhere.json", "'trainer.deepspeed' is 'nowhere.json', which is not a file"),
        ("trainer.report_to=[tensorboard, foo]", "'foo', which transformers cannot report to"),
        ("trainer.report_to=clearml", "'clearml', and its package is not installed; run `pip install clearml`"),
        ("trainer.lr=1", "unknown key 'trainer.lr'; did you mean 'learning_rate'?"),
        ("trainer.epochs=1", "did you mean 'num_train_epochs'?"),
        ("trainer.batch_size=1", "did you mean 'per_device_train_batch_size'?"),
    ],
)
def test_other_faults_of_a_recipe(configure, override, message):
    with pytest.raises(UsageError, match=message):
        configure("grpo", override)


def test_every_fault_of_a_kind_is_told_at_once(configure):
    with pytest.raises(UsageError, match=r"trainer\.top_p.*trainer\.temperature"):
        configure("grpo", "trainer.top_p=2", "trainer.temperature=0")
    with pytest.raises(UsageError, match=r"trainer\.bf16.*trainer\.fp16.*both true"):
        configure("grpo", "trainer.bf16=true", "trainer.fp16=true")
    with pytest.raises(UsageError, match=r"trainer\.sync_ref_model.*no reference"):
        configure("grpo", "trainer.sync_ref_model=true", "trainer.beta=0")


@pytest.mark.parametrize(
    "override",
    [
        *("lr_scheduler_type=foo", "optim=foo", "optim_args=foo", "lr_scheduler_kwargs={foo: 1}", "save_strategy=foo"),
        *("generation_batch_size=7", "generation_kwargs={foo: 1}", "generation_kwargs={temperature: 0}"),
        *("cache_implementation=foo", "load_best_model_at_end=true", "accelerator_config={foo: 1}", "eval_steps=0.5"),
    ],
)
@pytest.mark.parametrize("processes", [None, 1])
def test_trl_and_transformers_check_the_rest(configure, override, processes):
    more = ["trainer.eval_strategy=steps"] if "eval_steps" in override else []
    config = configure("grpo", f"trainer.{override}", *more)
    with pytest.raises(UsageError, match=r"TRL refuses the options under 'trainer'|data\.eval names no folder"):
        training_arguments(config, processes=processes)


def test_a_plan_is_checked_for_its_own_devices(configure):
    few = ["trainer.per_device_train_batch_size=1", "trainer.num_generations=8", "trainer.fp16=true"]
    config = configure("grpo", *few)
    training_arguments(config, processes=8)
    with pytest.raises(UsageError, match=r"divisible by num_generations \(8\).*gradient_accumulation_steps"):
        training_arguments(config, processes=4)


def test_no_is_a_strategy_and_not_false(configure):
    config = configure("grpo", "trainer.save_strategy=no", "trainer.eval_strategy=no")
    assert training_arguments(config).save_strategy == "no"
    assert (train_grpo(config) / "config.json").is_file()
    assert not list(Path(config.out).glob("checkpoints/checkpoint-*"))


def test_names_and_choices_are_those_of_the_libraries():
    for method in ("grpo", "sft"):
        assert set(options.option_names(method)) == set(options.types_of(method))
    assert set(options.REPORTERS) == set(INTEGRATION_TO_CALLBACK)
    source = inspect.getsource(GRPOTrainer._compute_loss)
    tested = re.findall(r'self\.loss_type (?:==|in) (?:"(\w+)"|\[([^\]]+)\])', source)
    known = {name for equal, several in tested for name in (equal, *re.findall(r"\w+", several)) if name}
    assert set(typing.get_args(narrowed("grpo", "loss_type", str))) == known


def test_wrong_names_are_told_without_torch(write_config):
    code = (
        "import sys\nfrom medvlm_r1.errors import UsageError\nfrom medvlm_r1.training.config import load_config\n"
        f"for given in ('trainer.lr=1', 'trainer.report_to=clearml'):\n"
        f"    try: load_config({str(write_config())!r}, [given])\n"
        "    except UsageError: pass\n    else: raise SystemExit('accepted')\n"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_trl_refuses_leaves_its_new_folder_empty(write_config):
    file = write_config(trainer={"report_to": "tensorboard"})
    with pytest.raises(UserError, match="router_aux_loss_coef"):
        train_grpo(load_config(file, ["trainer.router_aux_loss_coef=0.1"]))
    out = Path(load_config(file).out)
    assert [path.name for path in out.iterdir()] == [".lock"]
    assert train_grpo(load_config(file)).is_dir()
