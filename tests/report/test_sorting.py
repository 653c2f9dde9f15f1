"""Tables sort in a real browser, by click and by key, and the reference row stays at the end."""

import re

import pytest
from test_html import RIGHT, WRONG

from medvlm_r1.report import load_run, render_report


@pytest.fixture
def page(make_run, tmp_path):
    """Three models: on MRI 50, 100 and 0 percent right; the second has answered the first two questions alone."""
    runs = {
        "one": load_run(make_run("one", [RIGHT, WRONG, RIGHT, RIGHT])),
        "two": load_run(make_run("two", [RIGHT] * 2, limit=2)),
        "ten": load_run(make_run("ten", [WRONG] * 4)),
    }
    return render_report(runs, tmp_path / "page.html", title="T", summary="")


@pytest.mark.parametrize("width", [1280, 390])
def test_by_click_and_by_key(page, browse, width):
    opened = browse(page, width)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    table = opened.locator("table").first

    def order():
        return [name.strip() for name in table.locator("tbody .name").all_inner_texts()]

    written = ["one", "two", "ten", "Guessing at random"]
    assert order() == written
    mri = table.locator("thead th", has_text="MRI")
    button = mri.locator("button")
    button.click()
    assert (mri.get_attribute("aria-sort"), order()) == ("ascending", ["ten", "one", "two", written[-1]])
    button.press("Enter")
    assert (mri.get_attribute("aria-sort"), order()) == ("descending", ["two", "one", "ten", written[-1]])
    button.press("Space")
    assert (mri.get_attribute("aria-sort"), order()) == (None, written)
    # Unknown values come last both ways, and the table is sorted by one column alone.
    ct = table.locator("thead th").filter(has_text=re.compile(r"^CT"))
    for expected in (["ten", "one", "two"], ["one", "ten", "two"]):
        ct.locator("button").click()
        assert order()[:3] == expected
    assert mri.get_attribute("aria-sort") is None
    table.locator("thead th", has_text="Model").locator("button").click()
    assert order()[:3] == ["one", "ten", "two"]
    # Negative differences come first; a table of unlike rows does not sort.
    differences = opened.locator("table").nth(1)
    values = differences.locator("tbody td:nth-child(2) .value")
    assert values.all_inner_texts() == ["+50.0", "−50.0"]
    differences.locator("thead th", has_text="MRI").locator("button").click()
    assert values.all_inner_texts() == ["−50.0", "+50.0"]
    assert opened.locator("table.facts button").count() == 0
