"""Bodies of the phantom: one file per region, each with random anatomy per subject."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medvlm_r1.phantom.anatomy.abdomen import abdomen
from medvlm_r1.phantom.anatomy.body import Body, Site
from medvlm_r1.phantom.anatomy.chest import chest
from medvlm_r1.phantom.anatomy.head import head
from medvlm_r1.phantom.anatomy.knee import knee

BODIES: dict[str, Callable[[np.random.Generator], Body]] = {
    "head": head,
    "chest": chest,
    "abdomen": abdomen,
    "knee": knee,
}

__all__ = ["BODIES", "Body", "Site"]
