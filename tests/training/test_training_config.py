"""The configuration: what it accepts, and what its errors say, before TRL, data or weights are loaded."""

import dataclasses
import inspect
import re
import typing

import pytest
import yaml
from trl import GRPOConfig, GRPOTrainer

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.training import options
from medvlm_r1.training.arguments import training_arguments
from medvlm_r1.training.config import load_config

UNKNOWN = [
    ("modle=x", r"config\.yaml: unknown key 'modle'; did you mean 'model'\?"),
    ("data.trian=x", r"unknown key 'data\.trian'; did you mean 'data\.train'\?"),
    ("lora.rank=4", r"unknown key 'lora\.rank'"),
    ("rewards=[{nmae: accuracy_paper}]", r"unknown key 'rewards\.0\.nmae'; did you mean 'rewards\.0\.name'\?"),
    ("trainer.lerning_rate=1", r"config\.yaml: unknown key 'trainer\.lerning_rate'; did you mean 'learning_rate'\?"),
    ("trainer.qqqqq=1", r"unknown key 'trainer\.qqqqq'; the options are those of TRL's GRPOConfig"),
    ("trainer.lr=1", r"unknown key 'trainer\.lr'; did you mean 'learning_rate'\?"),
    ("trainer.epochs=1", r"did you mean 'num_train_epochs'\?"),
    ("trainer.batch_size=1", r"did you mean 'per_device_train_batch_size'\?"),
    ("learning_rate=1", r"unknown key 'learning_rate'; did you mean 'trainer\.learning_rate'\?"),
    ("template=medvlm", "unknown template 'medvlm'; did you mean 'medvlm-r1'"),
    ("rewards=[{name: accuracy_papr}]", "accuracy_paper"),
]
WRONG = [
    ("trainer.output_dir=x", r"'trainer\.output_dir' cannot be set here: set 'out'"),
    ("trainer.trust_remote_code=true", r"never run"),
    ("trainer.learning_rate=fast", r"'trainer\.learning_rate' is 'fast' \(str\); wanted a valid number"),
    ("trainer.beta=true", r"'trainer\.beta' is True \(bool\); wanted a number"),
    ("trainer.max_steps=1.5", r"'trainer\.max_steps' is 1\.5 \(float\); wanted a valid integer"),
    ("trainer.generation_kwargs=[1]", r"'trainer\.generation_kwargs' is \[1\]"),
    ("seed=yes", r"'seed' is True: expected a whole number"),
    ("seed=-1", r"'seed' is -1"),
    ("seed=5000000000", "'seed' is 5000000000: .*less than 4294967296"),
    ("method=ppo", r"'method' is 'ppo': .*'grpo' or 'sft'"),
    ("model=", r"'model' is None"),
    ("data.modality=MRI", r"'data\.modality' is 'MRI': .*list"),
    *((f"sharing={word}", r"'sharing' is .*expected on or off") for word in ("maybe", "1", "null")),
    ("min_pixels=900000", r"(?s)min_pixels.*max_pixels"),
    ("rewards=[]", "GRPO needs at least one"),
    ("rewards=[{name: format_paper}, {name: format_paper}]", "same reward twice"),
    ("rewards=[{name: accuracy_paper, weight: .nan}]", r"'rewards\.0\.weight' is nan: .*finite"),
    ("rewards=[{name: accuracy_paper, weight: -.inf}]", r"'rewards\.0\.weight' is -inf: .*finite"),
    ("rewards=[{name: accuracy_paper, weight: true}]", r"'rewards\.0\.weight' is True: expected a number"),
    ("rewards=[{name: accuracy_paper, weight: 0}]", "all weights of rewards are 0"),
    ("trainer.use_transformers_paged=true", "'trainer.use_transformers_paged' cannot be used here"),
    ("trainer.deepspeed=nowhere.json", "'trainer.deepspeed' is 'nowhere.json', which is not a file"),
    ("method.sub=1", r"goes below 'method', which is 'grpo'"),
    ("justakey", r"not of the form key=value"),
    ("a..b=1", r"not of the form key=value"),
    ("data=[1", r"override 'data=\[1', line 1: malformed YAML"),
]
OUT_OF_RANGE = [
    ("temperature=0", "greater than 0"),
    ("temperature=.nan", "a finite number"),
    ("learning_rate=-1", "greater than or equal to 0"),
    ("learning_rate=.inf", "a finite number"),
    ("beta=-0.1", "greater than or equal to 0"),
    ("top_p=2", "less than or equal to 1"),
    ("top_k=-1", "greater than or equal to 0"),
    ("min_p=1.5", "less than or equal to 1"),
    ("repetition_penalty=0", "greater than 0"),
    ("num_generations=1", "greater than or equal to 2"),
    ("max_completion_length=0", "greater than or equal to 1"),
    ("max_completion_length=null", "int"),
    ("max_steps=0", "greater than or equal to 1 or -1"),
    ("num_train_epochs=.nan", "a finite number"),
    ("gradient_accumulation_steps=0", "greater than or equal to 1"),
    ("per_device_train_batch_size=-8", "greater than or equal to 1"),
    ("generation_batch_size=0", "greater than or equal to 1"),
    ("epsilon=-0.1", "greater than or equal to 0"),
    ("num_iterations=0", "greater than or equal to 1"),
    ("save_steps=0", "greater than 0"),
    ("adam_beta2=1", "less than 1"),
    ("loss_type=foo", "'grpo', 'dapo'"),
    ("importance_sampling_level=foo", "'token' or 'sequence'"),
    ("scale_rewards=foo", "a valid boolean or 'group', 'batch' or 'none'"),
    ("log_level=foo", "'detail'"),
    ("ddp_backend=foo", "'nccl'"),
    ("model_init_kwargs=foo", "a valid dictionary"),
    ("vllm_gpu_memory_utilization=2", "less than or equal to 1"),
]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        *UNKNOWN,
        *WRONG,
        *((f"trainer.{o}", rf"'trainer\.{o.partition('=')[0]}' is .*; wanted .*({m})") for o, m in OUT_OF_RANGE),
    ],
)
def test_errors_say_what_and_where(configure, override, message):
    with pytest.raises(UsageError, match=message):
        configure("grpo", override, max_pixels=401408)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        # Every fault of a kind is told at once.
        ("grpo", ["trainer.top_p=2", "trainer.temperature=0"], r"trainer\.top_p.*trainer\.temperature"),
        ("grpo", ["trainer.bf16=true", "trainer.fp16=true"], r"trainer\.bf16.*trainer\.fp16.*both true"),
        ("grpo", ["trainer.sync_ref_model=true", "trainer.beta=0"], r"trainer\.sync_ref_model.*no reference"),
        ("sft", ["rewards=[{name: accuracy_paper}]"], "rewards are for method grpo"),
        ("sft", ["trainer.num_generations=4"], r"unknown key 'trainer\.num_generations'"),
    ],
)
def test_contradictions(configure, method, overrides, message):
    with pytest.raises(UsageError, match=message):
        configure(method, *overrides)


def test_beta_must_be_stated(write_config):
    file = write_config()
    raw = yaml.safe_load(file.read_text())
    del raw["trainer"]["beta"]
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(UsageError, match=r"trainer\.beta is not stated.*0\.04"):
        load_config(file)
    assert load_config(file, ["trainer.beta=0"]).trainer["beta"] == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: x\ndata: [1, 2\nmethod: sft\n", r"config\.yaml, line 3: malformed YAML"),
        ("model: x\nmodel: y\n", r"line 2: malformed YAML \(key 'model' is given twice\)"),
        ("- a\n", "expected a mapping of keys to values, saw list"),
        ("", "expected a mapping of keys to values, saw NoneType"),
        ("model: !!python/object/apply:os.getcwd []\n", "malformed YAML"),
        (None, r"config\.yaml: cannot be read"),
    ],
)
def test_broken_files(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(file)


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


def test_a_run_that_trl_refuses_leaves_its_new_folder_empty(train, tmp_path):
    with pytest.raises(UserError, match="router_aux_loss_coef"):
        train("grpo", "trainer.router_aux_loss_coef=0.1", trainer={"report_to": "tensorboard"})
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    # A corrected run may use it. `no` is a strategy and not false.
    run = train("grpo", "trainer.save_strategy=no", "trainer.eval_strategy=no", trainer={"report_to": "tensorboard"})
    assert not list(run.glob("checkpoints/checkpoint-*"))


@pytest.mark.parametrize(("value", "message"), [("[tensorboard, foo]", "foo is not supported"), ("clearml", "install")])
def test_reporters_that_cannot_report(configure, value, message):
    with pytest.raises(UsageError, match=f"refuses the options.*{message}"):
        training_arguments(configure("grpo", f"trainer.report_to={value}"))


def test_overrides_are_yaml_and_reach_every_level(write_config):
    file = write_config()
    before = file.read_text()
    overrides = ["trainer.learning_rate=1e-5", "trainer.scale_rewards=false", "trainer.bf16=null", "lora.r=4"]
    overrides += ["trainer.generation_kwargs.no_repeat_ngram_size=3", "data.modality=[MRI, CT]"]
    config = load_config(file, overrides)
    assert (config.trainer["learning_rate"], config.trainer["scale_rewards"]) == (1e-5, False)
    assert config.trainer["generation_kwargs"] == {"no_repeat_ngram_size": 3}
    assert config.data.modality == ["MRI", "CT"]
    assert (config.lora.r, config.lora.alpha) == (4, 32)
    assert file.read_text() == before
    assert config.sharing
    for word, meant in (("on", True), ("off", False), ("'off'", False), ("true", True)):
        assert load_config(file, [f"sharing={word}"]).sharing is meant


def test_written_configuration_reads_back_as_the_same(configure, tmp_path):
    config = configure("grpo", "trainer.learning_rate=3e-7", "trainer.report_to=[tensorboard]", lora={"r": 3})
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(file) == config


def test_defaults_fit_a_machine_without_gpu(configure, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    args = training_arguments(configure())
    cpu = (args.use_cpu, args.bf16, args.gradient_checkpointing, args.dataloader_num_workers)
    assert cpu == (True, False, False, 0)
    assert args.reward_weights == [1.0, 0.5]
    assert training_arguments(configure("grpo", "trainer.bf16=true")).bf16
    assert training_arguments(configure("grpo", "trainer.activation_checkpointing=true")).gradient_checkpointing


def test_names_defaults_and_choices_are_those_of_the_libraries():
    for field in dataclasses.fields(GRPOConfig):
        if field.init and field.name not in options.ELSEWHERE:
            made = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if made else field.default
            assert options.checked("grpo", {field.name: default})[field.name] == default
    source = inspect.getsource(GRPOTrainer._compute_loss)
    tested = re.findall(r'self\.loss_type (?:==|in) (?:"(\w+)"|\[([^\]]+)\])', source)
    known = {name for equal, several in tested for name in (equal, *re.findall(r"\w+", several)) if name}
    assert set(typing.get_args(options.types_of("grpo")["loss_type"])) == known
