"""The configuration: what it accepts, and what its errors say."""

import dataclasses

import pytest
import yaml
from trl import GRPOConfig

from medvlm_r1.errors import UsageError
from medvlm_r1.training import options
from medvlm_r1.training.arguments import training_arguments
from medvlm_r1.training.config import load_config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("modle=x", r"config\.yaml: unknown key 'modle'; did you mean 'model'\?"),
        ("data.trian=x", r"unknown key 'data\.trian'; did you mean 'data\.train'\?"),
        ("lora.rank=4", r"unknown key 'lora\.rank'"),
        ("rewards=[{nmae: accuracy_paper}]", r"unknown key 'rewards\.0\.nmae'; did you mean 'rewards\.0\.name'\?"),
        (
            "trainer.lerning_rate=1",
            r"config\.yaml: unknown key 'trainer\.lerning_rate'; did you mean 'learning_rate'\?",
        ),
        ("trainer.qqqqq=1", r"unknown key 'trainer\.qqqqq'; the options are those of TRL's GRPOConfig"),
        ("learning_rate=1", r"unknown key 'learning_rate'; did you mean 'trainer\.learning_rate'\?"),
        ("trainer.output_dir=x", r"'trainer\.output_dir' cannot be set here: set 'out'"),
        ("trainer.trust_remote_code=true", r"never run"),
        ("trainer.learning_rate=fast", r"'trainer\.learning_rate' is 'fast' \(str\); wanted float"),
        ("trainer.beta=true", r"'trainer\.beta' is True \(bool\); wanted float"),
        ("trainer.max_steps=1.5", r"'trainer\.max_steps' is 1\.5 \(float\); wanted int"),
        ("trainer.generation_kwargs=[1]", r"'trainer\.generation_kwargs' is \[1\]"),
        ("seed=yes", r"'seed' is True: expected a whole number"),
        ("seed=-1", r"'seed' is -1"),
        ("method=ppo", r"'method' is 'ppo': .*'grpo' or 'sft'"),
        ("model=", r"'model' is None"),
        ("data.modality=MRI", r"'data\.modality' is 'MRI': .*list"),
        ("rewards=[]", "GRPO needs at least one"),
        ("rewards=[{name: format_paper}, {name: format_paper}]", "same reward twice"),
        ("rewards=[{name: accuracy_papr}]", "accuracy_paper"),
        ("template=medvlm", "unknown template 'medvlm'; did you mean 'medvlm-r1'"),
        ("min_pixels=900000", r"(?s)min_pixels.*max_pixels"),
        ("method.sub=1", r"goes below 'method', which is 'grpo'"),
        ("justakey", r"not of the form key=value"),
        ("a..b=1", r"not of the form key=value"),
        ("data=[1", r"override 'data=\[1', line 1: malformed YAML"),
    ],
)
def test_errors_say_what_and_where(configure, override, message):
    with pytest.raises(UsageError, match=message):
        configure("grpo", override, max_pixels=401408)


def test_sft_takes_no_rewards_and_its_own_options(configure):
    with pytest.raises(UsageError, match="rewards are for method grpo"):
        configure("sft", "rewards=[{name: accuracy_paper}]")
    with pytest.raises(UsageError, match=r"unknown key 'trainer\.num_generations'"):
        configure("sft", "trainer.num_generations=4")


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
    ],
)
def test_broken_files(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(file)
    with pytest.raises(UsageError, match=r"absent\.yaml: cannot be read"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_are_yaml_and_reach_every_level(write_config):
    file = write_config()
    before = file.read_text()
    config = load_config(
        file,
        [
            "trainer.learning_rate=1e-5",
            "trainer.scale_rewards=false",
            "trainer.generation_kwargs.no_repeat_ngram_size=3",
            "data.modality=[MRI, CT]",
            "lora.r=4",
            "trainer.bf16=null",
        ],
    )
    assert config.trainer["learning_rate"] == 1e-5
    assert config.trainer["scale_rewards"] is False
    assert config.trainer["generation_kwargs"] == {"no_repeat_ngram_size": 3}
    assert config.data.modality == ["MRI", "CT"]
    assert config.lora is not None
    assert (config.lora.r, config.lora.alpha) == (4, 32)
    assert file.read_text() == before


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
    checkpointing = configure("grpo", "trainer.activation_checkpointing=true")
    assert training_arguments(checkpointing).gradient_checkpointing


def test_every_option_of_trl_is_known():
    elsewhere = options.ELSEWHERE
    for field in dataclasses.fields(GRPOConfig):
        if field.init and field.name not in elsewhere:
            made = field.default_factory is not dataclasses.MISSING
            default = field.default_factory() if made else field.default
            assert options.checked("grpo", {field.name: default})[field.name] == default
