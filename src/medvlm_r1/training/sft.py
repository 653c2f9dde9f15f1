"""The paper's baseline: imitate the answer letter, nothing else (supervised fine-tuning with TRL's `SFTTrainer`).

The completion is the bare letter, and the loss falls on it alone. The prompt template is the configuration's, so the
evaluation can ask in the same words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import SFTTrainer

from medvlm_r1.policy.load import Policy
from medvlm_r1.training.callbacks import Evaluate, Progress
from medvlm_r1.training.config import RunConfig
from medvlm_r1.training.dependable import Dependable
from medvlm_r1.training.finite import SAMPLE_ID, NamedBatches
from medvlm_r1.training.loop import train
from medvlm_r1.training.run_folder import RunFolder


class _Trainer(Dependable, SFTTrainer):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data_collator: Any = NamedBatches(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if SAMPLE_ID not in self._signature_columns:
            self._signature_columns.append(SAMPLE_ID)


def train_sft(config: RunConfig, *, progress: Progress | None = None, evaluate: Evaluate | None = None) -> Path:
    """Train on the answer letters; the same call again resumes, and returns at once when the model stands.

    Arguments, result and errors are those of `training.grpo.train_grpo`, for a configuration of method "sft".
    """
    assert config.method == "sft", config.method

    def build(*, policy: Policy, args: Any, run: RunFolder, **rest: Any) -> Any:
        return _Trainer(model=policy.model, processing_class=policy.processor, args=args, **rest)

    return train(config, build, progress=progress, evaluate=evaluate)
