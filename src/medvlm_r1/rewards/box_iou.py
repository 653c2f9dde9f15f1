"""A reward for the position and size of findings: intersection over union; and the box matching of all box rewards."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from medvlm_r1.prompts.boxes import Edges, parse_boxes
from medvlm_r1.rewards.completion import Completion, completion_text

Matrix = npt.NDArray[np.float64]
Similarity = Callable[[Sequence[Edges], Sequence[Edges]], Matrix]
"""Function of n predicted and m true boxes that returns their similarities in [0, 1], shape (n, m)."""


def box_iou(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    boxes: Sequence[Sequence[Edges] | None],
    **columns: Any,
) -> list[float | None]:
    """Reward boxes by their intersection over union (IoU) with the true boxes.

    Let P be the n boxes of a completion and T the m true boxes. Predicted and true boxes are matched one to one so that
    the sum of their IoU is largest (Hungarian method):

        r = sum over matched pairs of IoU(p, t) / max(n, m)        if n + m > 0
        r = 1                                                      if n = m = 0

    A missed finding and a superfluous box therefore both lower the reward. For an image without a finding, the reward
    is 1 without a box and 0 with any box. A box around the whole image gets only its IoU. A malformed box counts in n,
    and boxes in the reasoning do not count (`prompts.boxes`). The labels of the boxes are ignored. On its own, the
    reward gives 1 to an empty completion if there is no finding, so combine it with `format_box`. This reward is not
    from the paper.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        boxes: True boxes of each item, as fractions of the width and height of the shown image. Empty if it is known
            that there is none; None if they are unknown.
        **columns: Optional: `shown_size`, the width and height of the resized image if boxes are written in its pixels
            (None for coordinates from 0 to 1000), and `own_image` (see `grounded`). Others are ignored.

    Returns:
        One reward in [0, 1] per completion. None, which TRL leaves out, if the true boxes are unknown or the completion
        was generated with another item's image.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    return matched_rewards(iou, completions, boxes, columns)


def iou(predicted: Sequence[Edges], truth: Sequence[Edges]) -> Matrix:
    """Intersection over union of every predicted box with every true box, shape (n, m)."""
    a, b = box_columns(predicted)[:, :, None], box_columns(truth)[:, None, :]
    width, height = (np.minimum(a[i + 2], b[i + 2]) - np.maximum(a[i], b[i]) for i in (0, 1))
    overlap = width.clip(0) * height.clip(0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return np.asarray(np.minimum(overlap / (area - overlap), 1.0))


def match_boxes(similarity: Similarity, predicted: Sequence[Edges], truth: Sequence[Edges]) -> Matrix:
    """Match predicted and true boxes one to one, so that the sum of their similarities is largest.

    Returns:
        Similarity of each true box with its predicted box, shape (m,); 0 for a true box without a predicted box.
    """
    matched = np.zeros(len(truth))
    similarities = similarity(predicted, truth)
    rows, columns = linear_sum_assignment(similarities, maximize=True)
    matched[columns] = similarities[rows, columns]
    return matched


def matched_rewards(
    similarity: Similarity,
    completions: Sequence[Completion],
    boxes: Sequence[Sequence[Edges] | None],
    columns: Mapping[str, Any],
) -> list[float | None]:
    """Sum of the matched similarities, divided by the number of predicted or of true boxes, whichever is larger.

    Without a true box, the reward is 1 for no predicted box and 0 for any. Malformed boxes count as predicted.

    Returns:
        One reward in [0, 1] per completion. None if the true boxes are unknown, or if the completion was generated with
        another item's image (column `own_image`).
    """
    # Not a parameter of the rewards: naming the column would request such images.
    own_image = columns.get("own_image") or [True] * len(completions)
    sizes = columns.get("shown_size") or [None] * len(completions)
    rewards: list[float | None] = []
    for completion, truth, size, own in zip(completions, boxes, sizes, own_image, strict=True):
        if truth is None or not own:
            rewards.append(None)
            continue
        parsed = parse_boxes(completion_text(completion), size)
        total = math.fsum(match_boxes(similarity, parsed.boxes, truth))
        rewards.append(total / max(parsed.count, len(truth)) if parsed.count or truth else 1.0)
    return rewards


def box_columns(boxes: Sequence[Edges]) -> Matrix:
    """Boxes as an array of shape (4, n)."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
