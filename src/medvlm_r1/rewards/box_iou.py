"""A reward for the position and size of findings: intersection over union."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.boxes import Edges, Size
from medvlm_r1.rewards.boxes import iou, matched_rewards
from medvlm_r1.rewards.completion import Completion


def box_iou(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    boxes: Sequence[Sequence[Edges] | None],
    shown_size: Sequence[Size | None] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Reward boxes by their intersection over union (IoU) with the true boxes.

    Let P be the n boxes of a completion and T the m true boxes. Predicted and true boxes are matched one to one so that
    the sum of their IoU is largest (Hungarian method):

        r = sum over matched pairs of IoU(p, t) / max(n, m)        if n + m > 0
        r = 1                                                      if n = m = 0

    A missed finding and a superfluous box therefore both cost. An image without a finding gives 1 for no box and 0 for
    any. A box around the whole image gives its IoU and no more. A malformed box counts in n, and boxes in the reasoning
    do not count (`prompts.boxes`). The labels of the boxes are ignored. On its own, the reward gives 1 to an empty
    completion if there is no finding, so combine it with `format_box`. This reward is not from the paper.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        boxes: True boxes of each item, as fractions of the width and height of the shown image. Empty if it is known
            that there is none; None if they are unknown.
        shown_size: Width and height of the resized image if boxes are written in its pixels; None for coordinates from
            0 to 1000.
        **columns: Ignored, except `own_image` (see `grounded`).

    Returns:
        One reward in [0, 1] per completion. None, which TRL leaves out, if the true boxes are unknown or the completion
        was generated with another item's image.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    return matched_rewards(iou, completions, boxes, shown_size, columns)
