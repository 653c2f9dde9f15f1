"""Training configuration: one YAML file, with overrides `a.b=value` from the command line.

Everything under `trainer:` is an option of TRL's own `GRPOConfig` or `SFTConfig` by its own name. Nothing is ignored:
an unknown key anywhere is an error that names the nearest one, and a value of the wrong type is an error that names
its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError
from medvlm_r1.prompts.templates import ALL_TEMPLATES
from medvlm_r1.rewards import resolve_reward
from medvlm_r1.training import options
from medvlm_r1.training.overrides import apply_overrides, read_yaml, shortened

# Faults told at once.
_MOST_FAULTS = 8


class _Section(BaseModel):
    # The docstrings below are what the documentation says of each key.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _positive_int(value: Any) -> Any:
    # bool is an int to pydantic, and `seed: yes` is a slip of the pen.
    if isinstance(value, bool):
        raise ValueError("expected a whole number")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _switch(value: Any) -> Any:
    # YAML reads on and off as true and false; quoted, and in JSON, they stay words.
    switch = {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise ValueError("expected on or off")
    return switch


Count = Annotated[int, Field(gt=0), BeforeValidator(_positive_int)]
Text = Annotated[str, Field(min_length=1)]


class DataConfig(_Section):
    """Training and evaluation data."""

    train: Text
    """The data folder."""
    eval: Text | None = None
    """A second data folder, for TRL's own evaluation (`trainer.eval_strategy`) and for `evaluate_every`."""
    modality: Annotated[list[Text], Field(min_length=1)] | None = None
    """Use only these modalities of the training folder (default: all)."""
    skip_missing: bool = False
    """Skip samples whose images are missing. Otherwise they are an error."""


class RewardConfig(_Section):
    """One reward and its weight in the sum."""

    name: Text
    """A name of `medvlm_r1.rewards.REGISTRY`, or a dotted path to a function of TRL's reward signature."""
    weight: Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)] = 1.0
    """Factor of the reward in the sum."""


class LoraSection(_Section):
    """LoRA adapters instead of full fine-tuning; merged into the final model."""

    r: Count = 16
    """Rank."""
    alpha: Count = 32
    """Scaling: the adapter's output is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the adapters. Above 0, prompts are not shared."""
    target_modules: Annotated[list[Text], Field(min_length=1)] | None = None
    """Names of the layers to adapt (default: all linear layers except the output head)."""


class RunConfig(_Section):
    """A whole training run."""

    model: Text
    """The policy to start from: a folder, a hub id, or `phantom-base`."""
    method: Literal["grpo", "sft"]
    """Reinforcement learning with rewards, or imitation of the answer letter."""
    data: DataConfig
    template: Text = "medvlm-r1"
    """The prompt template, one of `medvlm_r1.prompts.templates.ALL_TEMPLATES`; use the same one in the evaluation."""
    rewards: list[RewardConfig] = []
    """GRPO only: rewards, added with their weights."""
    seed: Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_positive_int)] = 0
    """Seed of the data order, the sampling and new weights (adapters)."""
    out: Text
    """The run folder."""
    lora: LoraSection | None = None
    min_pixels: Count | None = None
    """Minimum number of pixels of an image after resizing (the paper's release: 3,136; default: the processor's own).
    It is saved in the final model's processor."""
    max_pixels: Count | None = None
    """Maximum number of pixels of an image after resizing (the paper's release: 401,408); as `min_pixels`."""
    sharing: Annotated[bool, BeforeValidator(_switch)] = True
    """GRPO only: compute each prompt and each image once (on), or once per completion, TRL's own way (off)."""
    on_guard: Literal["stop", "warn"] = "warn"
    """When a guard finds a problem: end the run with a checkpoint, or print a warning. NaN or Inf always ends the
    run."""
    evaluate_every: Count | None = None
    """Steps between evaluations on `data.eval`, each with real and with blank images."""
    trainer: dict[str, Any] = {}
    """Options of TRL's GRPOConfig or SFTConfig."""

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        names = [reward.name for reward in self.rewards]
        if self.method == "grpo" and not names:
            raise ValueError("rewards is empty; GRPO needs at least one, such as [{name: accuracy_paper}]")
        if self.method == "sft" and names:
            raise ValueError("rewards are for method grpo; sft teaches the answer letter alone")
        if names and not any(reward.weight for reward in self.rewards):
            raise ValueError("all weights of rewards are 0, so nothing would be learned")
        if len(set(names)) < len(names):
            raise ValueError(f"rewards names the same reward twice: {', '.join(names)}")
        if self.method == "grpo" and "beta" not in self.trainer:
            raise ValueError(
                "trainer.beta is not stated; state it, since TRL's default went from 0.04 to 0.0 in version 0.19 "
                "(the paper used 0.04; 0.0 drops the reference model)"
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels ({self.min_pixels}) is above max_pixels ({self.max_pixels})")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, change and check a configuration.

    Args:
        path: A YAML file.
        overrides: `a.b=value` each, the value written as YAML.

    Returns:
        The configuration, with the project's own defaults filled in under `trainer`.

    Raises:
        UsageError: Malformed YAML (with its line), an unknown key (with the nearest), a missing key, or a wrong value.
    """
    path = Path(path)
    raw = apply_overrides(read_yaml(path), overrides, str(path))
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(item) for item in error.errors()]
        more = f"; and {len(problems) - _MOST_FAULTS} more" if len(problems) > _MOST_FAULTS else ""
        raise UsageError(f"{path}: {'; '.join(problems[:_MOST_FAULTS])}{more}") from error
    if config.template not in ALL_TEMPLATES:
        raise UsageError(
            f"{path}: unknown template {config.template!r}; {did_you_mean(config.template, ALL_TEMPLATES)}"
        )
    for reward in config.rewards:
        try:
            resolve_reward(reward.name)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    try:
        trainer = options.checked(config.method, config.trainer)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return config.model_copy(update={"trainer": trainer})


def _explain(item: Any) -> str:
    """One of pydantic's findings in the words of this project."""
    location = [str(key) for key in item["loc"]]
    dotted = ".".join(location)
    if item["type"] == "extra_forbidden":
        known = [".".join([*location[:-1], name]) for name in _section_at(location[:-1]).model_fields]
        if len(location) == 1 and options.is_option(location[0]):
            return f"unknown key '{dotted}'; did you mean 'trainer.{dotted}'?"
        return f"unknown key '{dotted}'; {did_you_mean(dotted, known)}"
    if item["type"] == "missing":
        return f"key '{dotted}' is missing"
    message = item["msg"].removeprefix("Value error, ")
    # Aliases in ten lines of YAML can stand for more text than there is memory.
    return f"'{dotted}' is {shortened(item['input'])}: {message}" if dotted else message


def _section_at(location: list[str]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {"data": DataConfig, "rewards": RewardConfig, "lora": LoraSection}
    return sections[location[0]] if location else RunConfig
