"""The reliable trainer mixin, and the restore of weights whose names on disk differ from those in memory.

transformers saves Qwen2-VL (and every family whose modules were renamed after its release) under the parameter names of
the Hub files. `from_pretrained` maps these names back. `Trainer` in transformers 5.23 does not, because it calls
`load_state_dict(strict=False)`. A resumed run would continue from its initial weights and only print a warning.
"""

from typing import Any

from transformers import Trainer

from medvlm_r1.models.load import load_policy
from medvlm_r1.training.reliability.checkpoint import AtomicCheckpoints
from medvlm_r1.training.reliability.nan_guard import NanGuard


class RestoresWeights(Trainer):  # type: ignore[misc]
    """Mixin that loads full weights with `from_pretrained` and requires every key to match.

    List it before a transformers `Trainer` in the base classes. Adapter, FSDP and DeepSpeed checkpoints use
    the in-memory names, so `Trainer` loads them itself.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._names_differ_on_disk():
            self._restore(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._names_differ_on_disk():
            self._restore(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _names_differ_on_disk(self) -> bool:
        distributed = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return not distributed and not hasattr(self.accelerator.unwrap_model(self.model), "peft_config")

    def _restore(self, folder: str) -> None:
        model = self.accelerator.unwrap_model(self.model)
        model.load_state_dict(load_policy(folder, dtype=model.dtype, device="cpu").model.state_dict())


class ReliableTrainerMixin(RestoresWeights, NanGuard, AtomicCheckpoints):
    """Mixin with exact restore of weights, atomic checkpoints and the NaN guard.

    List it before a TRL trainer in the base classes.
    """
