"""Boxes as a model should write them."""

from medvlm_r1.prompts.boxes import RELATIVE


def box_text(box, shown_size=None):
    """Write a box, rounded to integers from 0 to 1000, or to tenths of a pixel of the resized image."""
    steps = RELATIVE if shown_size is None else (10 * shown_size[0], 10 * shown_size[1])
    numbers = [round(edge * steps[axis % 2]) for axis, edge in enumerate(box)]
    for low, high in ((0, 2), (1, 3)):
        if numbers[low] == numbers[high]:
            numbers[low] = min(numbers[low], steps[low] - 1)
            numbers[high] = numbers[low] + 1
    return f"<box>{','.join(str(n) if shown_size is None else f'{n / 10:g}' for n in numbers)}</box>"
