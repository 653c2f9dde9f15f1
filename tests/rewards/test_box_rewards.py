"""Rewards for boxes: hand-computed cases, an independent matching, and what holds of any boxes."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_r1.prompts.boxes import box_text
from medvlm_r1.rewards import REGISTRY
from medvlm_r1.rewards.box_iou import iou

T, A = "<think>It is bright.</think>", "<answer>B</answer>"
box_iou, box_point, format_box = (REGISTRY[name] for name in ("box_iou", "box_point", "format_box"))
LEFT, RIGHT, WHOLE = (0.1, 0.1, 0.3, 0.3), (0.6, 0.2, 0.8, 0.4), (0.0, 0.0, 1.0, 1.0)
HALF = (0.1, 0.1, 0.3, 0.2)
"""The upper half of LEFT, so an IoU of 1/2; its center is on no edge of LEFT."""


def text_of(boxes, more=""):
    return f"{T}{''.join(map(box_text, boxes))}{more}{A}"


def reward_of(reward, boxes, truth, more="", **columns):
    [value] = reward(prompts=["p"], completions=[text_of(boxes, more)], boxes=[truth], **columns)
    return value


@pytest.mark.parametrize(
    ("boxes", "truth", "iou", "point"),
    [
        ([LEFT], [LEFT], 1, 1),
        ([HALF], [LEFT], 1 / 2, 1),
        ([RIGHT], [LEFT], 0, 0),
        ([], [LEFT], 0, 0),
        ([], [], 1, 1),
        ([LEFT], [], 0, 0),
        # Two lesions, one found.
        ([LEFT], [LEFT, RIGHT], 1 / 2, 1 / 2),
        ([RIGHT, LEFT], [LEFT, RIGHT], 1, 1),
        # One lesion, two boxes; the second copy is superfluous.
        ([LEFT, RIGHT], [LEFT], 1 / 2, 1 / 2),
        ([LEFT, LEFT], [LEFT, RIGHT], 1 / 2, 1 / 2),
        ([HALF, LEFT], [LEFT], 1 / 2, 1 / 2),
        ([WHOLE], [LEFT], 0.04, 0),
        ([WHOLE], [(0.25, 0.25, 0.75, 0.75)], 0.25, 1),
        ([WHOLE], [LEFT, RIGHT], 0.02, 0),
        ([LEFT], None, None, None),
    ],
)
def test_by_hand(boxes, truth, iou, point):
    assert reward_of(box_iou, boxes, truth) == pytest.approx(iou, abs=1e-12)
    assert reward_of(box_point, boxes, truth) == point


def test_malformed_boxes_cost_like_superfluous_ones():
    assert reward_of(box_iou, [LEFT], [LEFT], "<box>1,2</box>") == 0.5
    assert reward_of(box_iou, [], [], "<box>1,2</box>") == 0
    thought = f"<think>At {box_text(LEFT)}</think>{A}"
    assert box_iou(["p"] * 2, [thought] * 2, boxes=[[LEFT], []]) == [0, 1]


def test_pixels_and_the_images_of_other_items():
    [value] = box_iou(["p"], [f"{T}<box>39.2,19.6,117.6,58.8</box>"], boxes=[[LEFT]], shown_size=[(392, 196)])
    assert value == pytest.approx(1)
    columns = {"boxes": [[LEFT]] * 2, "shown_size": [None] * 2, "own_image": [True, False]}
    assert box_point(["p"] * 2, [text_of([LEFT])] * 2, **columns) == [1, None]
    conversation = [{"role": "assistant", "content": text_of([LEFT])}]
    assert box_iou(["p"], [conversation], boxes=[[LEFT]]) == [1]
    for reward in (box_iou, box_point):
        with pytest.raises(ValueError, match="zip"):
            reward(["p"] * 2, ["x"] * 2, boxes=[None])


def slow_iou(a, b):
    """Count the cells of a fine grid, of which all edges are lines."""
    cells = [
        {(x, y) for x in range(round(20 * c[0]), round(20 * c[2])) for y in range(round(20 * c[1]), round(20 * c[3]))}
        for c in (a, b)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def slow_reward(boxes, truth):
    if not boxes and not truth:
        return 1.0
    few, many = sorted([boxes, truth], key=len)
    best = max(sum(slow_iou(a, b) for a, b in zip(few, chosen, strict=True)) for chosen in permutations(many, len(few)))
    return best / len(many)


@st.composite
def box(draw):
    x1, y1 = draw(st.integers(0, 19)), draw(st.integers(0, 19))
    return x1 / 20, y1 / 20, draw(st.integers(x1 + 1, 20)) / 20, draw(st.integers(y1 + 1, 20)) / 20


some = st.lists(box(), max_size=4)


@given(some, some, st.randoms(use_true_random=False))
def test_the_matching_is_the_best_and_ignores_the_order(boxes, truth, random):
    value = reward_of(box_iou, boxes, truth)
    assert value == pytest.approx(slow_reward(boxes, truth), abs=1e-12)
    shuffled = [random.sample(group, len(group)) for group in (boxes, truth)]
    assert reward_of(box_iou, *shuffled) == pytest.approx(value, abs=1e-12)
    assert 0 <= value <= 1
    assert 0 <= reward_of(box_point, boxes, truth) <= 1
    if truth:
        assert reward_of(box_iou, truth, truth) == pytest.approx(1)
        assert reward_of(box_iou, [*truth, WHOLE], truth) < 1
        assert reward_of(box_iou, truth[1:], truth) < 1


@given(box(), st.tuples(*[st.floats(0, 1)] * 4), st.floats(0, 1))
def test_a_box_nearer_to_the_truth_is_worth_no_less(truth, start, part):
    """Along the way from any box around the truth to the truth itself, the IoU grows."""
    outer = [min(truth[i], start[i]) if i < 2 else max(truth[i], start[i]) for i in range(4)]
    nearer = [a + part * (b - a) for a, b in zip(outer, truth, strict=True)]
    values = iou([outer, nearer, truth], [truth])[:, 0].tolist()
    assert values[0] <= values[1] + 1e-12 <= values[2] + 2e-12 == pytest.approx(1)


@given(
    st.text() | st.lists(st.sampled_from(["<box>", "</box>", "1", ",", "<think>", "</think>", " "])).map("".join), some
)
def test_no_text_raises(text, truth):
    for reward in (box_iou, box_point):
        [value] = reward(["p"], [text], boxes=[truth])
        assert 0 <= value <= 1


def test_a_million_characters_take_no_time_out_of_proportion(bounded_time):
    text = "".join(f"<box>{i % 999},{i % 99},1000,1000</box>" for i in range(40_000)) + box_text(LEFT)
    for reward in (box_iou, box_point):
        with bounded_time():
            [value] = reward(["p"], [text], boxes=[[LEFT, RIGHT, HALF]])
        assert 0 < value < 1e-4


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{T}{A}", 1),
        (f"{T}<box>1,2,3,4</box>{A}", 1),
        (f"\n{T}\n<box>1,2,3,4</box>\n<box>5,6,7,8</box>\n{A}\n", 1),
        (f"{T}<box>1,2,3</box>{A}", 0),
        (f"{T}<box>3,2,1,4</box>{A}", 0),
        (f"{T}<box>1,2,3,4</box>x{A}", 0),
        (f"{T}{A}<box>1,2,3,4</box>", 0),
        (f"<box>1,2,3,4</box>{T}{A}", 0),
        (f"{T}<box>1,2,3,4</box>", 0),
        (f"{T}<box>1,2,3,4</box>{A}{A}", 0),
        (f"{T}<box>1,2,3,4</box>{T}{A}", 0),
        (f"<think>At <box>1,2,3,4</box>, so B.</think>{A}", 0),
        (f"<think>At ＜ｂｏｘ>, so B.</think>{A}", 0),
        ("<think>It is bright.</think><box>1,2,3,4</box><answer><box>1,2,3,4</box></answer>", 0),
        (f"<think>.</think><box>1,2,3,4</box>{A}", 0),
        (f"{T}<box>1,2,3,4</box><answer></answer>", 0),
        (f"{T}<box>1,2,3,4</box><box>words</box>{A}", 0),
        (f"{T}<box>1,2,3,4</box><!-- x -->{A}", 0),
    ],
)
def test_format_box(text, wanted):
    assert format_box(["p"], [text]) == [wanted]


def test_the_strict_rewards_read_the_answer_after_boxes():
    text = f"<think>It shows a knee.</think><box>1,2,3,4</box>{A}"
    columns = {"letter": ["B"], "options": [("brain", "knee")], "own_image": [True]}
    for name in ("accuracy_paper", "accuracy_strict", "consistent", "grounded"):
        assert REGISTRY[name](["p"], [text], **columns) == [1]
    # Boxes are not part of their format.
    assert [REGISTRY[name](["p"], [text]) for name in ("format_paper", "format_strict")] == [[0], [0]]
    assert REGISTRY["accuracy_strict"](["p"], [text.replace("1,2,3,4", "any words")], letter=["B"]) == [0]
