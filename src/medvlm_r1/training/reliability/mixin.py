"""The reliable trainer mixin, for every trainer of TRL."""

from __future__ import annotations

from medvlm_r1.training.reliability.checkpoint import AtomicCheckpoints
from medvlm_r1.training.reliability.nan_guard import NanGuard
from medvlm_r1.training.reliability.restore import RestoresWeights


class ReliableTrainerMixin(RestoresWeights, NanGuard, AtomicCheckpoints):
    """Mixin before a TRL trainer: exact restore of weights, atomic checkpoints, NaN guard."""
