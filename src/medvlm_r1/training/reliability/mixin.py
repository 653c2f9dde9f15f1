"""What this project adds to any of TRL's trainers so that a run can be trusted."""

from __future__ import annotations

from medvlm_r1.training.reliability.checkpoint import AtomicCheckpoints
from medvlm_r1.training.reliability.nan_guard import NanGuard
from medvlm_r1.training.reliability.restore import RestoresWeights


class ReliableTrainerMixin(RestoresWeights, NanGuard, AtomicCheckpoints):
    """Mixin before a TRL trainer: weights read back as they were, whole checkpoints, no step by what is no number."""
