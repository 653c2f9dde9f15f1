"""What this project adds to any of TRL's trainers so that a run can be trusted."""

from __future__ import annotations

from medvlm_r1.training.reliability.checkpoint import WholeCheckpoints
from medvlm_r1.training.reliability.nan_guard import StopsAtNonFinite
from medvlm_r1.training.reliability.restore import RestoresWeights


class Dependable(RestoresWeights, StopsAtNonFinite, WholeCheckpoints):
    """Mixin before a TRL trainer: weights read back as they were, whole checkpoints, no step by what is no number."""
