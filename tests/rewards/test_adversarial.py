"""What a policy may try for a reward it has not earned, and the reward it shall get for it, by hand.

The question has the options brain, knee, lung and liver; B, the knee, is right. The paper's rewards stay as released:
their columns show which holes the strict ones close.
"""

from __future__ import annotations

import inspect
import random
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.dialogue.prompt import ALL_TEMPLATES
from medvlm_r1.rewards import REGISTRY
from medvlm_r1.rewards.format_no_think import format_no_think
from medvlm_r1.rewards.format_think_after import format_think_after

ALL = {**REGISTRY, "format_no_think": format_no_think, "format_think_after": format_think_after}
OPTIONS = ("brain", "knee", "lung", "liver")
T = "<think>A brain no, B knee yes.</think>"
ECHO = ALL_TEMPLATES["medvlm-r1"].format(question="Which organ?\nA) brain\nB) knee\nC) lung\nD) liver")
COLUMNS = ("accuracy_strict", "format_strict", "consistent", "accuracy_paper", "format_paper")

# What is written, and its reward by each of COLUMNS.
WANTED: dict[str, tuple[str, tuple[float, float, float, float, float]]] = {
    "as wanted": (f"{T}<answer>B</answer>", (1, 1, 1, 1, 1)),
    "as wanted, with white space": (f" {T}\n\n<answer> B\n</answer>\n", (1, 1, 1, 1, 0)),
    "wrong, and at odds with itself": (f"{T}<answer>A</answer>", (0, 1, 0, 0, 1)),
    "nothing": ("", (0, 0, 0, 0, 0)),
    # Empty tags.
    "empty tags": ("<think></think><answer></answer>", (0, 0, 0, 0, 1)),
    "blank tags": ("<think> \n</think><answer>\t</answer>", (0, 0, 0, 0, 1)),
    "no reasoning": ("<think></think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "reasoning of dots": ("<think>...</think><answer>B</answer>", (1, 0, 0, 1, 1)),
    "no answer": (f"{T}<answer></answer>", (0, 0, 0, 0, 1)),
    "answer of dots": (f"{T}<answer>...</answer>", (0, 0, 0, 0, 1)),
    "the letter alone": ("B", (0, 0, 0, 0, 0)),
    "never closed": (f"{T}<answer>B", (0, 0, 0, 0, 0)),
    "closed and not opened": (f"{T}B</answer>", (0, 0, 0, 0, 0)),
    "reasoning never closed": ("<think>B knee yes.<answer>B</answer>", (1, 0, 0, 1, 0)),
    # Several answers.
    "two answers, right first": (f"{T}<answer>B</answer><answer>C</answer>", (0, 0, 0, 1, 1)),
    "two answers, right last": (f"{T}<answer>C</answer><answer>B</answer>", (0, 0, 0, 0, 1)),
    "the same twice": (f"{T}<answer>B</answer><answer>B</answer>", (0, 0, 0, 1, 1)),
    "the second in capitals": (f"{T}<answer>B</answer><ANSWER>C</ANSWER>", (0, 0, 0, 1, 0)),
    "the second never closed": (f"{T}<answer>B</answer><answer>C", (0, 0, 0, 1, 0)),
    "the second with a space": (f"{T}<answer>B</answer><answer >C</answer>", (0, 0, 0, 1, 1)),
    "one tag for each option": (
        T + "".join(f"<answer>{x}</answer>" for x in "ABCD"),
        (0, 0, 0, 0, 1),
    ),
    "all letters": (f"{T}<answer>ABCD</answer>", (0, 1, 0, 0, 1)),
    "all letters, one a line": (f"{T}<answer>A\nB\nC\nD</answer>", (0, 1, 0, 0, 1)),
    "B or C": (f"{T}<answer>B or C</answer>", (0, 1, 0, 0, 1)),
    "letters beyond the options": (f"{T}<answer>J</answer>", (0, 1, 0, 0, 1)),
    "letters beyond J": (f"{T}<answer>Z</answer>", (0, 1, 0, 0, 1)),
    "the letter repeated": (f"{T}<answer>BB</answer>", (0, 1, 0, 0, 1)),
    "the letter with a bracket": (f"{T}<answer>(B)</answer>", (0, 1, 0, 0.5, 1)),
    "the letter in words without A to J": (f"{T}<answer>B - mmm</answer>", (0, 1, 0, 0.5, 1)),
    "the letter in small": (f"{T}<answer>b</answer>", (0, 1, 0, 1, 1)),
    "the option's text": (f"{T}<answer>knee</answer>", (0, 1, 0, 0, 1)),
    "further text": (f"{T}<answer>B</answer> or C", (1, 0, 1, 1, 0)),
    "text before": (f"Sure! {T}<answer>B</answer>", (1, 0, 1, 1, 0)),
    "text between": (f"{T} so <answer>B</answer>", (1, 0, 1, 1, 0)),
    # Nested and repeated tags.
    "answer in the reasoning": ("<think>B knee yes.<answer>B</answer></think>", (1, 0, 1, 1, 0)),
    "answer in the answer": (f"{T}<answer><answer>B</answer></answer>", (0, 0, 0, 0, 1)),
    "reasoning in the answer": (f"<answer>{T}B</answer>", (0, 0, 0, 0, 0)),
    "reasoning in the reasoning": (f"<think>{T}</think><answer>B</answer>", (1, 0, 1, 1, 1)),
    "two reasonings": (f"{T}{T}<answer>B</answer>", (1, 0, 1, 1, 1)),
    "a thousand reasonings": (f"{T * 1000}<answer>B</answer>", (1, 0, 1, 1, 1)),
    "a second one with nothing new": (f"{T}<answer>B</answer>{T}<answer>B</answer>", (0, 0, 0, 1, 1)),
    "turned round": (f"<answer>B</answer>{T}", (1, 0, 1, 1, 0)),
    "tags in capitals": ("<THINK>B knee yes.</THINK><ANSWER>B</ANSWER>", (0, 0, 0, 1, 0)),
    "tags with spaces": ("< think >B< /think >< answer >B< /answer >", (0, 0, 0, 0, 0)),
    "a long s in the tag": (f"{T}<anſwer>B</anſwer>", (0, 0, 0, 1, 0)),
    "a long s in a second tag": (f"{T}<answer>B</answer><anſwer>C</anſwer>", (0, 0, 0, 1, 0)),
    "a dotless i in the tag": ("<thınk>B knee yes.</thınk><answer>B</answer>", (1, 0, 1, 1, 0)),
    "fullwidth brackets": (f"{T}＜answer＞B＜/answer＞", (0, 0, 0, 0, 0)),
    "escaped brackets": (f"{T}&lt;answer&gt;B&lt;/answer&gt;", (0, 0, 0, 0, 0)),
    # Letters that look alike.
    "Cyrillic Ve": (f"{T}<answer>В</answer>", (0, 1, 0, 0, 1)),
    "Greek Beta": (f"{T}<answer>Β</answer>", (0, 1, 0, 0, 1)),
    "fullwidth B": (f"{T}<answer>Ｂ</answer>", (0, 1, 0, 0, 1)),
    "mathematical B": (f"{T}<answer>𝐁</answer>", (0, 1, 0, 0, 1)),
    "circled B": (f"{T}<answer>Ⓑ</answer>", (0, 0, 0, 0, 1)),
    "B with an accent on it": (f"{T}<answer>B\u0301</answer>", (0, 1, 0, 0.5, 1)),
    "zero width space before B": (f"{T}<answer>\u200bB</answer>", (0, 1, 0, 0.5, 1)),
    "turned writing order": (f"{T}<answer>\u202eB</answer>", (0, 1, 0, 0.5, 1)),
    "B and a Cyrillic A": (f"{T}<answer>BА</answer>", (0, 1, 0, 0.5, 1)),
    "a null character": (f"{T}<answer>B\0</answer>", (0, 1, 0, 0.5, 1)),
    "a no-break space": (f"{T}<answer>\u00a0B\u00a0</answer>", (1, 1, 1, 1, 1)),
    # The prompt said back.
    "prompt echo": (ECHO, (0, 0, 0, 0, 0)),
    "prompt echo, then an answer": (f"{ECHO}{T}<answer>B</answer>", (0, 0, 0, 0, 0)),
    "prompt echo after the answer": (f"{T}<answer>B</answer>{ECHO}", (0, 0, 0, 1, 0)),
    "prompt echo as the reasoning": (f"<think>{ECHO}</think><answer>B</answer>", (0, 0, 0, 0, 1)),
    "the prompt's placeholders": ("<think>...</think>\n<answer>...</answer>", (0, 0, 0, 0, 1)),
    "the prompt's example letters": (f"{T}<answer>A, B, C, D,...</answer>", (0, 1, 0, 0, 1)),
    # The reasoning that fits every answer.
    "all options weighed yes": (
        "<think>A brain yes, B knee yes, C lung yes.</think><answer>B</answer>",
        (1, 1, 0, 1, 1),
    ),
    "every letter stated": ("<think>The answer is A. The answer is B.</think><answer>B</answer>", (1, 1, 0, 1, 1)),
    "nothing stated": ("<think>I look at the image.</think><answer>B</answer>", (1, 1, 0, 1, 1)),
}


def rewards(
    name: str, text: str, *, letter: str = "B", blank: str | None = "A", own: bool = True, options: Any = OPTIONS
) -> float:
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
def test_the_wanted_rewards(tried: Callable[[str, int], None], text: str, wanted: tuple[float, ...]) -> None:
    assert tuple(rewards(name, text) for name in COLUMNS) == wanted
    assert rewards("grounded_gate", text) == wanted[0]
    assert rewards("grounded_gate", text, blank="B") == 0
    # Text that is no answer to its own image is none to another's.
    assert rewards("grounded", text) == wanted[0]
    assert rewards("grounded", text, own=False) <= any(rewards("accuracy_strict", text, letter=x) for x in "ACD")
    tried("rewards-by-hand", len(COLUMNS) + 4)


def test_every_registered_reward_is_tried() -> None:
    assert {*COLUMNS, "grounded", "grounded_gate"} == REGISTRY.keys()


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
def test_a_million_characters_earn_nothing(
    tried: Callable[[str, int], None], bounded_time: Callable[[], AbstractContextManager[None]], bomb: str
) -> None:
    strict = [name for name in ALL if not name.endswith("paper")]
    wanted = {**dict.fromkeys(strict, 0), "format_strict": int(bomb in WELL_FORMED)}
    with bounded_time():
        assert {name: rewards(name, BOMBS[bomb]) for name in strict} == wanted
        for name in ("accuracy_paper", "format_paper"):
            assert rewards(name, BOMBS[bomb]) in (0, 1)
    tried("rewards-linear", len(ALL))


def test_a_long_reasoning_is_no_fault() -> None:
    text = f"<think>{'It is small < 5 mm. ' * (N // 20)}B knee yes.</think><answer>B</answer>"
    assert {name: rewards(name, text) for name in REGISTRY} == dict.fromkeys(REGISTRY, 1)


PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", "<ANSWER>", "<anſwer>", "<answer >", "<", ">", "/", "</"),
    *(" ", "\n", "\u2028", "\u00a0", "\u200b", "A", "B", "b", "В", "Ｂ", "ﬀ", "J", ".", ":", "yes", "no", "not "),
    *("knee", "brain", "A brain no, B knee yes.", "The answer is ", "(B)", "\\boxed{", "\x1c", "\0", "B" * 2100),
    *(T, ECHO, "\ud800"),
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=16).map("".join) | st.text()
option_lists = st.lists(st.sampled_from([*OPTIONS, "no", "yes", "+", ".*", "(a", "x" * 2100]) | st.text(), max_size=11)
wholes = st.text() | texts
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": wholes}), max_size=3)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["assistant", "user"]), "content": st.none() | wholes | parts}),
    max_size=3,
)


def check(completion: Any, letter: str, blank: str | None, options: list[str]) -> None:
    """What holds of every completion: no exception, no reward above the maximum, the strict ones below the paper's."""
    found = {name: rewards(name, completion, letter=letter, blank=blank, options=options) for name in ALL}
    for name, value in found.items():
        assert type(value) is float, name
        assert value in ((0, 0.5, 1) if name == "accuracy_paper" else (0, 1)), name
    # What is strict pays for nothing that the paper's does not pay for in full.
    assert found["accuracy_strict"] <= (found["accuracy_paper"] == 1)
    assert found["grounded_gate"] <= found["accuracy_strict"]
    assert found["grounded"] <= found["accuracy_strict"]
    if isinstance(completion, str):
        assert found["format_strict"] <= rewards("format_paper", completion.strip())
        paid = [x for x in LETTERS if rewards("accuracy_strict", completion, letter=x)]
        assert len(paid) <= 1


def fuzz(examples: int, number: int = 0) -> int:
    """Every reward on texts and conversations drawn at random, others for each number; how many there were."""
    seen = 0

    @seed(number)
    @settings(max_examples=examples)
    @given(texts | messages, st.sampled_from([*LETTERS, ""]), st.sampled_from([*LETTERS, None]), option_lists)
    def attempt(completion: Any, letter: str, blank: str | None, options: list[str]) -> None:
        nonlocal seen
        seen += 1
        check(completion, letter, blank, options)

    attempt()
    return seen


def test_no_text_raises_or_exceeds_the_maximum(tried: Callable[[str, int], None]) -> None:
    tried("rewards-fuzzed", fuzz(1000))


@pytest.mark.soak(share=1)
def test_soak_no_text_raises_or_exceeds_the_maximum(
    tried: Callable[[str, int], None], soaking: Callable[[], float]
) -> None:
    number = seen = 0
    while not seen or soaking():
        number += 1
        seen += fuzz(500, number)
    tried("rewards-soak", seen)


@pytest.mark.soak(share=3)
def test_soak_no_text_led_by_coverage_raises_or_exceeds_the_maximum(
    tried: Callable[[str, int], None], soaking: Callable[[], float], tmp_path: Path
) -> None:
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
def test_soak_pieces_repeated_take_no_time_out_of_proportion(
    tried: Callable[[str, int], None],
    soaking: Callable[[], float],
    bounded_time: Callable[[], AbstractContextManager[None]],
) -> None:
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


def test_rewards_take_what_trl_gives() -> None:
    """Every column of a data set comes as a keyword; a reward must bear those it does not know."""
    for name, reward in ALL.items():
        kinds = [parameter.kind for parameter in inspect.signature(reward).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD in kinds, name
