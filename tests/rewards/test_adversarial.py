"""What a policy may try for a reward it has not earned: the table of `hostile_completions`, and any text."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_completions import COLUMNS, ECHO, OPTIONS, WANTED, T
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.rewards import REGISTRY
from medvlm_r1.rewards.format_no_think import format_no_think
from medvlm_r1.rewards.format_think_after import format_think_after

# Rewards for boxes and open answers are between 0 and 1; `test_box_rewards` and `test_open_answer` try them.
ALL = {name: reward for name, reward in REGISTRY.items() if name not in ("box_iou", "box_point", "open_answer")}
ALL |= {"format_no_think": format_no_think, "format_think_after": format_think_after}


def rewards(name, text, *, letter="B", blank="A", own=True, options=OPTIONS):
    [value] = ALL[name](
        prompts=["p"],
        completions=[text],
        letter=[letter],
        options=[options],
        blank_letter=[blank],
        own_image=[own],
        sample_id=["s"],
    )
    return value


@pytest.mark.parametrize(("text", "wanted"), WANTED.values(), ids=list(WANTED))
def test_the_wanted_rewards(tried, text, wanted):
    assert tuple(rewards(name, text) for name in COLUMNS) == wanted
    # Text that is no answer to its own image is none to another's.
    assert rewards("grounded", text) == wanted[0]
    assert rewards("grounded", text, own=False) <= any(rewards("accuracy_strict", text, letter=x) for x in "ACD")
    tried("rewards-by-hand", len(COLUMNS) + 2)


def test_every_registered_reward_is_tried():
    assert {*COLUMNS, "grounded", "box_iou", "box_point", "format_box", "open_answer"} == REGISTRY.keys()


N = 1_000_000
BOMBS = {
    "opened": "<think>" + "<answer>" * (N // 8),
    "closed": "<think>" + "</answer>" * (N // 9),
    "bridges": "<think>" + "</think><answer>" * (N // 16),
    "brackets": "<" * N,
    "half tags": "</answer" * (N // 8),
    "spaces in a tag": f"{T}<answer>{' ' * N}",
    "spaces between": f"{T}{' ' * N}<answerB</answer>",
    "letters": f"{T}<answer>{'B' * N}</answer>",
    "letters apart": f"{T}<answer>{'B ' * (N // 2)}</answer>",
    "weighed": "<think>" + "B knee yes " * (N // 11) + "</think><answer>C</answer>",
    "half weighed": "<think>" + "B  knee : " * (N // 10) + "</think><answer>C</answer>",
    "stated": "<think>" + "the answer is is " * (N // 17) + "</think><answer>C</answer>",
    "dots": "<think>" + "." * N + "</think><answer></answer>",
    "marks": "<think>x" + "\u0301" * N + "</think><answer></answer>",
    "quotes": "<think>" + '."' * (N // 2),
    "lines": "<think>" + "\n \u2028" * (N // 3),
    "tag without an end": "< answer " * (N // 9),
    "tag of spaces": "<" + " " * N + "answer",
}


# Their form is as wanted, if nothing else is.
WELL_FORMED = {"letters", "letters apart", "weighed", "half weighed", "stated"}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_million_characters_earn_nothing(tried, bounded_time, bomb):
    strict = [name for name in ALL if not name.endswith("paper")]
    wanted = dict.fromkeys(strict, 0) | dict.fromkeys(("format_strict", "format_box"), int(bomb in WELL_FORMED))
    with bounded_time():
        assert {name: rewards(name, BOMBS[bomb]) for name in strict} == wanted
        for name in ("accuracy_paper", "format_paper"):
            assert rewards(name, BOMBS[bomb]) in (0, 1)
    tried("rewards-linear", len(ALL))


def test_a_long_reasoning_is_no_fault():
    text = f"<think>{'It is small < 5 mm. ' * (N // 20)}B knee yes.</think><answer>B</answer>"
    names = ALL.keys() & REGISTRY.keys()
    assert {name: rewards(name, text) for name in names} == dict.fromkeys(names, 1)


PIECES = [
    *("<think>", "<!--", "</think>", "-->", "<answer>", "&lt;", "</answer>", "＜", "<ANSWER>", "<anſwer>"),
    *("<", ">", "/", "</", "A", "B", "b", "В", "Ｂ", "ﬀ", "J", ".", ":", "yes", "no", "not ", "<answer >"),
    *(" ", "\n", "\u2028", "\u00a0", "\u200b", "\ufeff", "\x1c", "\0", "\ud800"),
    *("knee", "brain", "A brain no, B knee yes.", "The answer is ", "(B)", "\\boxed{", "B" * 2100, T, ECHO),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=16).map("".join) | st.text()
option_lists = st.lists(st.sampled_from([*OPTIONS, "no", "yes", "+", ".*", "(a", "x" * 2100]) | st.text(), max_size=11)
wholes = st.text() | texts
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": wholes}), max_size=3)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["assistant", "user"]), "content": st.none() | wholes | parts}),
    max_size=3,
)


def check(completion, letter, blank, options):
    """What holds of every completion: no exception, no reward above the maximum, the strict ones below the paper's."""
    values = {name: rewards(name, completion, letter=letter, blank=blank, options=options) for name in ALL}
    for name, value in values.items():
        assert type(value) is float, name
        assert value in ((0, 0.5, 1) if name == "accuracy_paper" else (0, 1)), name
    if not letter:  # an open question
        assert values["accuracy_paper"] == values["accuracy_strict"] == 0
    # What is strict pays for nothing that the paper's does not pay for in full.
    assert values["accuracy_strict"] <= (values["accuracy_paper"] == 1)
    assert values["grounded"] <= values["accuracy_strict"]
    if isinstance(completion, str):
        bare = completion.strip("".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff")
        assert values["format_strict"] <= rewards("format_paper", bare)
        # Nothing in words is paid outside of the two parts.
        for name in {*ALL} - {"accuracy_paper", "format_paper"}:
            for around in (f"{completion} C", f"C {completion}"):
                assert not rewards(name, around, letter=letter, blank=blank, options=options), name
        paid = [x for x in LETTERS if rewards("accuracy_strict", completion, letter=x)]
        assert len(paid) <= 1


def fuzz(examples, number=0):
    """Every reward on texts and conversations drawn at random, others for each number; how many there were."""
    seen = 0

    @seed(number)
    @settings(max_examples=examples)
    @given(texts | messages, st.sampled_from([*LETTERS, ""]), st.sampled_from([*LETTERS, None]), option_lists)
    def attempt(completion, letter, blank, options):
        nonlocal seen
        seen += 1
        check(completion, letter, blank, options)

    attempt()
    return seen


def test_no_text_raises_or_exceeds_the_maximum(tried):
    tried("rewards-fuzzed", fuzz(1000))


@pytest.mark.soak(share=1)
def test_soak_no_text_raises_or_exceeds_the_maximum(tried, soaking):
    number = seen = 0
    while not seen or soaking():
        number += 1
        seen += fuzz(500, number)
    tried("rewards-soak", seen)


@pytest.mark.soak(share=3)
def test_soak_no_text_led_by_coverage_raises_or_exceeds_the_maximum(tried, soaking, tmp_path):
    pytest.importorskip("atheris")
    script = Path(__file__).with_name("led_by_coverage.py")
    limit = [f"-max_total_time={max(5, round(soaking()))}", "-seed=1", "-print_final_stats=1", "-rss_limit_mb=3000"]
    # A new interpreter: atheris counts in the byte code of what is imported after it.
    ended = subprocess.run([sys.executable, script, *limit], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", ended.stderr)
    assert executed is not None, ended.stderr[-2000:]
    tried("rewards-soak", int(executed[1]))


@pytest.mark.soak(share=1)
def test_soak_pieces_repeated_take_no_time_out_of_proportion(tried, soaking, bounded_time):
    draw = random.Random(0)
    cases = 0
    while not cases or soaking():
        parts = ["".join(draw.choices(PIECES, k=draw.randint(0, 3))) for _ in range(3)]
        head, middle, tail = parts
        text = head + middle * (N // (len(middle) or 1)) + tail
        with bounded_time():
            check(text, "B", "A", list(OPTIONS))
        cases += 1
    tried("rewards-soak", cases)
