"""The longest option against lengths counted by hand."""

from dataclasses import dataclass

import pytest

from medvlm_r1.data.option_prior import longest_option


@dataclass(frozen=True)
class Item:
    options: tuple[str, ...]
    answer: str


@pytest.mark.parametrize(
    ("options", "answer", "credit"),
    [
        (("cyst", "calcification", "mass"), "calcification", 1.0),
        (("cyst", "calcification", "mass"), "mass", 0.0),
        (("cyst", "mass", "no"), "mass", 1 / 2),
        (("cyst", "mass", "no"), "no", 0.0),
        (("Yes", "Not"), "Yes", 1 / 2),
        ((" a   b ", "abcd"), "abcd", 1.0),  # white space is not length
        (("alone",), "alone", 1.0),
    ],
)
def test_credit(options, answer, credit):
    assert longest_option([Item(options, answer)]) == [credit]


def test_no_items():
    assert longest_option([]) == []
