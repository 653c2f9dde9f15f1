"""Tables sort in a real browser, by click and by key, and what is to be compared with stays at the end."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_html import RIGHT, WRONG

from medvlm_r1.report import load_run, render_report

RunMaker = Callable[..., Path]
Browse = Callable[[Path, int], Any]


@pytest.fixture
def page(make_run: RunMaker, tmp_path: Path) -> Path:
    """Three models: on MRI 50, 100 and 0 percent right; the second has answered the first two questions alone."""
    runs = {
        "one": load_run(make_run("one", [RIGHT, WRONG, RIGHT, RIGHT])),
        "two": load_run(make_run("two", [RIGHT] * 2, limit=2)),
        "ten": load_run(make_run("ten", [WRONG] * 4)),
    }
    return render_report(runs, tmp_path / "page.html", title="T", summary="")


def order(table: Any) -> list[str]:
    return [name.strip() for name in table.locator("tbody .name").all_inner_texts()]


def test_by_click_and_by_key(page: Path, browse: Browse) -> None:
    table = browse(page, 1280).locator("table").first
    written = ["one", "two", "ten", "Guessing at random"]
    assert order(table) == written
    mri = table.get_by_role("columnheader", name="MRI")
    button = mri.get_by_role("button")
    button.click()
    assert (mri.get_attribute("aria-sort"), order(table)) == ("ascending", ["ten", "one", "two", written[-1]])
    button.press("Enter")
    assert (mri.get_attribute("aria-sort"), order(table)) == ("descending", ["two", "one", "ten", written[-1]])
    button.press("Space")
    assert (mri.get_attribute("aria-sort"), order(table)) == (None, written)
    # What is not known comes last both ways, and one column alone is the order.
    ct = table.get_by_role("columnheader", name="CT", exact=False).filter(has_text=re.compile(r"^CT"))
    for expected in (["ten", "one", "two"], ["one", "ten", "two"]):
        ct.get_by_role("button").click()
        assert order(table)[:3] == expected
    assert mri.get_attribute("aria-sort") is None
    table.get_by_role("columnheader", name="Model").get_by_role("button").click()
    assert order(table)[:3] == ["one", "ten", "two"]


def test_negative_differences_come_first(page: Path, browse: Browse) -> None:
    table = browse(page, 1280).locator("table").nth(1)
    values = table.locator("tbody td:nth-child(2) .value")
    assert values.all_inner_texts() == ["+50.0", "−50.0"]
    table.get_by_role("columnheader", name="MRI").get_by_role("button").click()
    assert values.all_inner_texts() == ["−50.0", "+50.0"]


def test_on_a_phone_there_is_something_to_press(page: Path, browse: Browse) -> None:
    opened = browse(page, 390)
    table = opened.locator("table").first
    button = table.locator("thead button", has_text="MRI")
    button.click()
    assert order(table)[:3] == ["ten", "one", "two"]
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_table_of_unlike_rows_does_not_sort(page: Path, browse: Browse) -> None:
    assert browse(page, 1280).locator("table.facts button").count() == 0
