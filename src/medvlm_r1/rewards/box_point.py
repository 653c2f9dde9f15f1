"""A reward for the position of findings: the center of the box."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlm_r1.prompts.boxes import Edges
from medvlm_r1.rewards.box_iou import Matrix, box_columns, matched_rewards
from medvlm_r1.rewards.completion import Completion


def box_point(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    boxes: Sequence[Sequence[Edges] | None],
    **columns: Any,
) -> list[float | None]:
    """Reward boxes whose center is inside a true box.

    Like `box_iou`, but instead of the IoU, a pair scores 1 if the center of the predicted box is inside the true box,
    and otherwise 0. Each true box counts for at most one predicted box. The size of the predicted box does not matter,
    so this reward gives a signal before boxes overlap well. This reward is not from the paper.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        boxes: As for `box_iou`.
        **columns: As for `box_iou`.

    Returns:
        One reward in [0, 1] per completion; None as for `box_iou`.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    return matched_rewards(center_inside, completions, boxes, columns)


def center_inside(predicted: Sequence[Edges], truth: Sequence[Edges]) -> Matrix:
    """1 where the center of a predicted box is inside a true box or on its edge, otherwise 0; shape (n, m)."""
    a, b = box_columns(predicted)[:, :, None], box_columns(truth)[:, None, :]
    x, y = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2
    return np.asarray((b[0] <= x) & (x <= b[2]) & (b[1] <= y) & (y <= b[3]), dtype=np.float64)
