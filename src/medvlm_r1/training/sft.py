"""Supervised fine-tuning on the answer letter alone, the paper's baseline (TRL's `SFTTrainer`).

The completion is only the letter (for an open question, the text of the answer), and the loss is computed only on the
completion. The configuration sets the prompt template, so that the evaluation can use the same template.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl import SFTTrainer

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy
from medvlm_r1.prompts.templates import opened_reasoning
from medvlm_r1.training.callbacks import Evaluate, Progress
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.loop import train
from medvlm_r1.training.reliability.guard import SAMPLE_ID, NamedBatches, ReliableTrainerMixin
from medvlm_r1.training.run_folder import RunFolder


class _Trainer(ReliableTrainerMixin, SFTTrainer):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator: Any = NamedBatches(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if SAMPLE_ID not in self._signature_columns:
            self._signature_columns.append(SAMPLE_ID)


def train_sft(config: RunConfig, *, progress: Progress | None = None, evaluate: Evaluate | None = None) -> Path:
    """Train on the answer letters. The same call resumes an interrupted run, and returns at once if it is complete.

    The configuration has method "sft". Arguments, result and errors are those of `training.grpo.train_grpo`.
    """
    assert config.method == "sft", config.method

    def build(*, policy: Policy, args: Any, run: RunFolder, **rest: Any) -> Any:
        _check_opening(config.model, policy.processor, rest["train_dataset"][0])
        return _Trainer(model=policy.model, processing_class=policy.processor, args=args, **rest)

    return train(config, build, progress=progress, evaluate=evaluate)


def _check_opening(model: str, processor: Any, row: Mapping[str, Any]) -> None:
    """Reject a chat template that ends a prompt with a reasoning tag but omits the tag before an answer of the data.

    Raises:
        UserError: The model would be trained without the tag and evaluated with it.
    """
    prompt = processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
    answer = [{"role": "assistant", "content": [{"type": "text", "text": row["completion"][0]["content"]}]}]
    conversation = processor.apply_chat_template([*row["prompt"], *answer])
    if opened_reasoning(prompt) and not conversation.startswith(prompt):
        raise UserError(
            f"The chat template of {model} ends a prompt with {opened_reasoning(prompt)!r} and leaves it out before an "
            "answer of the data. SFT would train without the tag, and the evaluation would ask with it. Use a model "
            "whose template opens no reasoning, such as its instruct variant, or train with GRPO."
        )
