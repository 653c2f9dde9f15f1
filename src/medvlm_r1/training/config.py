"""Training configuration: one YAML file, with overrides `a.b=value` from the command line.

Every key under `trainer:` is an option of TRL's `GRPOConfig` or `SFTConfig` with the same name. No key is ignored: an
unknown key is an error that suggests the nearest valid key. A value of the wrong type is an error that names its key.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.prompts.boxes import BOX_TEMPLATES
from medvlm_r1.prompts.templates import TEMPLATES
from medvlm_r1.rewards import asks, resolve_reward
from medvlm_r1.rewards.open_questions.words import read_synonyms
from medvlm_r1.training import options


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-5` is a number and a duplicate key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+\Z"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping.

    Raises:
        UsageError: The file cannot be read, is malformed YAML, or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error
    value = _parse(text, str(path))
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected a mapping of keys to values, saw {type(value).__name__}")
    return value


def apply_overrides(config: dict[str, Any], overrides: Sequence[str], source: str) -> dict[str, Any]:
    """Apply overrides of the form `a.b=value` to a copy of a nested mapping.

    Args:
        config: The mapping. It is not changed.
        overrides: Dotted keys and YAML values, such as `trainer.learning_rate=1e-5`.
        source: Origin of the mapping, such as its path, for error messages.

    Raises:
        UsageError: An override has no equals sign or no key, its value is malformed, or its key is below a value that
            is not a mapping.
    """
    result = copy.deepcopy(config)
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"override {override!r} is not of the form key=value, such as trainer.learning_rate=1e-5")
        level = result
        for depth, key in enumerate(keys[:-1]):
            if level.get(key) is None:
                level[key] = {}
            level = level[key]
            if not isinstance(level, dict):
                above = ".".join(keys[: depth + 1])
                value = options.shortened(level)
                raise UsageError(f"{source}: override {override!r} goes below '{above}', which is {value}, no mapping")
        level[keys[-1]] = _parse(text, f"override {override!r}")
    return result


def _parse(text: str, source: str) -> Any:
    try:
        # This SafeLoader cannot create arbitrary Python objects.
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{source}{line}: malformed YAML ({getattr(error, 'problem', None) or error})") from error
    # PyYAML raises these for values that do not fit their tag: "!!int ''", the date 2001-99-99.
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else f"a value does not fit its tag: {error}"
        raise UsageError(f"{source}: malformed YAML ({what})") from error


OPEN_ANSWER = "open_answer"
# Maximum number of problems in one error message.
_MOST_FAULTS = 8


class _Section(BaseModel):
    # The documentation describes each key with its docstring below.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _positive_int(value: Any) -> Any:
    # pydantic accepts a boolean as an integer, but `seed: yes` is a mistake.
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _switch(value: Any) -> Any:
    # YAML parses on and off as booleans. If quoted, or in JSON, they are strings.
    switch = {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise ValueError("expected on or off")
    return switch


Count = Annotated[int, Field(gt=0), BeforeValidator(_positive_int)]
Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]


class DataConfig(_Section):
    """Training and evaluation data."""

    train: Text
    """Data folder for training."""
    eval: Text | None = None
    """Data folder for evaluation during training: TRL's own (`trainer.eval_strategy`) and `evaluate_every`."""
    modality: Annotated[list[Text], Field(min_length=1)] | None = None
    """Use only these modalities of the training folder (default: all)."""
    skip_missing: bool = False
    """Skip samples whose images are missing, unreadable or rejected by the model (default: report an error)."""
    pass_rate: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None
    """Use only training samples with a pass rate in this range, such as `[0.1, 0.9]`; both ends are included. The
    pass rates are those of `medvlm-r1 data difficulty`."""
    order: Literal["easy-to-hard"] | None = None
    """GRPO only: `easy-to-hard` takes the samples by decreasing pass rate in every epoch (default: random order)."""
    synonyms: Text | None = None
    """File with your own synonyms for the reward `open_answer`: one group of terms per line, separated by tabs."""


class RewardConfig(_Section):
    """A reward function and its weight."""

    name: Text
    """A key of `medvlm_r1.rewards.REGISTRY`, or the dotted path of a function with TRL's reward signature."""
    weight: Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)] = 1.0
    """Weight of this reward in the weighted sum of all rewards."""


class LoraSection(_Section):
    """LoRA adapters, trained instead of the full weights and merged into the final model."""

    r: Count = 16
    """Rank of the adapters."""
    alpha: Count = 32
    """Scaling: the adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability at the adapter inputs. If it is above 0, prompts are not shared."""
    target_modules: Annotated[list[Text], Field(min_length=1)] | None = None
    """Names of the layers to adapt (default: all linear layers except the output head)."""


class RunConfig(_Section):
    """Configuration of a training run."""

    model: Text
    """Initial policy: a model folder, a Hugging Face Hub id, or `phantom-base`."""
    method: Literal["grpo", "sft"]
    """`grpo`: reinforcement learning with rewards. `sft`: supervised fine-tuning on the answer letter
    (the answer text of an open question)."""
    data: DataConfig
    template: Text = "medvlm-r1"
    """The prompt template, one of `medvlm_r1.prompts.templates.TEMPLATES`. Evaluate with the same template."""
    rewards: list[RewardConfig] = []
    """GRPO only: the rewards, combined as a weighted sum."""
    seed: Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_positive_int)] = 0
    """Seed of the data order, the sampling and the initial adapter weights."""
    out: Text
    """Path of the run folder."""
    lora: LoraSection | None = None
    min_pixels: Count | None = None
    """Minimum number of pixels per image after resizing (default: the processor's own; the paper's release: 3,136).
    It is saved with the final model's processor."""
    max_pixels: Count | None = None
    """Maximum number of pixels per image after resizing (default: the processor's own; the paper's release: 401,408).
    It is saved with the final model's processor."""
    sharing: Annotated[bool, BeforeValidator(_switch)] = True
    """GRPO only: `on` computes a prompt and its images once for all completions. `off` computes them once per
    completion, as TRL does."""
    resample_dead_groups: Annotated[int, Field(ge=0), BeforeValidator(_positive_int)] = 0
    """GRPO only: maximum number of attempts, per generation batch, to replace the groups whose completions all have the
    same reward by groups of other questions."""
    balance: Literal["modality", "question_type", "subject"] | None = None
    """GRPO only: multiply advantages so that each value of this field has the same total weight in the training
    data."""
    on_guard: Literal["stop", "warn"] = "warn"
    """Action if a guard detects a problem: `stop` ends the run with a checkpoint, `warn` prints a warning.
    NaN or Inf always ends the run."""
    evaluate_every: Count | None = None
    """Number of steps between evaluations on `data.eval`. Each one runs with the real images and with blank images."""
    trainer: dict[str, Any] = {}
    """Options of TRL's GRPOConfig or SFTConfig."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        names = [reward.name for reward in self.rewards]
        if self.method == "grpo" and not names:
            raise ValueError("rewards is empty; GRPO needs at least one, such as [{name: accuracy_paper}]")
        if self.method == "sft" and names:
            raise ValueError("rewards are for method grpo; sft teaches the answer letter alone")
        if self.method == "sft" and (self.resample_dead_groups or self.balance):
            raise ValueError("resample_dead_groups and balance are for method grpo, which has groups and advantages")
        if names and not any(reward.weight for reward in self.rewards):
            raise ValueError("all weights of rewards are 0, so nothing would be learned")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards names the same reward twice: {', '.join(names)}")
        if self.data.synonyms and OPEN_ANSWER not in names:
            raise ValueError(f"data.synonyms is for the reward {OPEN_ANSWER}, which rewards does not name")
        if self.data.pass_rate and self.data.pass_rate[0] > self.data.pass_rate[1]:
            raise ValueError(f"data.pass_rate is {self.data.pass_rate}; wanted [lowest, highest]")
        if self.data.order and (self.method != "grpo" or "shuffle_dataset" in self.trainer):
            raise ValueError("data.order is for method grpo, and sets trainer.shuffle_dataset; leave one of them out")
        if self.method == "grpo" and "beta" not in self.trainer:
            raise ValueError(
                "trainer.beta is not stated; state it, since TRL's default went from 0.04 to 0.0 in version 0.19 "
                "(the paper used 0.04; 0.0 drops the reference model)"
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file, apply the overrides and validate the result.

    Args:
        path: A YAML file.
        overrides: Strings of the form `a.b=value`, with the value in YAML.

    Returns:
        The configuration, with the project's own defaults filled in under `trainer`.

    Raises:
        UsageError: The YAML is malformed, a key is unknown or missing, or a value is invalid.
    """
    path = Path(path)
    raw = apply_overrides(read_yaml(path), overrides, str(path))
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        more = f"; and {len(problems) - _MOST_FAULTS} more" if len(problems) > _MOST_FAULTS else ""
        raise UsageError(f"{path}: {'; '.join(problems[:_MOST_FAULTS])}{more}") from error
    try:
        if config.template not in TEMPLATES:
            raise ValueError(f"unknown template {config.template!r}; {did_you_mean(config.template, TEMPLATES)}")
        for reward in config.rewards:
            needs_boxes = asks(resolve_reward(reward.name), "boxes")
            if needs_boxes and config.template not in BOX_TEMPLATES:
                raise ValueError(
                    f"the reward {reward.name!r} needs boxes, but the template {config.template!r} does not ask for "
                    f"them; set template to {' or '.join(BOX_TEMPLATES)}"
                )
        if config.data.synonyms:
            read_synonyms(config.data.synonyms)
        trainer = options.checked(config.method, config.trainer)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    return config.model_copy(update={"trainer": trainer})


def _explain(item: Any) -> str:
    """Convert one of pydantic's validation errors to a message of this project."""
    location = [str(key) for key in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        sections: dict[str, type[BaseModel]] = {"data": DataConfig, "rewards": RewardConfig, "lora": LoraSection}
        section = sections[location[0]] if len(location) > 1 else RunConfig
        known = [".".join([*location[:-1], name]) for name in section.model_fields]
        if len(location) == 1 and options.is_option(location[0]):
            return f"unknown key '{dotted}'; did you mean 'trainer.{dotted}'?"
        return f"unknown key '{dotted}'; {did_you_mean(dotted, known)}"
    if item["type"] == "missing":
        return f"key '{dotted}' is missing"
    message = item["msg"].removeprefix("Value error, ")
    # Shortened, because a few YAML aliases can expand to more text than fits into memory.
    return f"'{dotted}' is {options.shortened(item['input'])}: {message}" if dotted else message
