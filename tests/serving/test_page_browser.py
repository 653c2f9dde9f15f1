"""The reader page in a real browser (headless Chromium), on phone and desk, with the embedded model."""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import uvicorn
from page_model import scripted
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page import build_app
from medvlm_r1.serving.page.gate import private_uploads
from medvlm_r1.serving.page.layout import EXAMPLES

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
DICOM = str(get_testdata_file("CT_small.dcm", download=False))
FIELDS = ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "StudyDate", "Manufacturer", "StationName")
FOCUS = """(selector) => { const e = document.activeElement;
  const name = e === document.body ? "BODY" : e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || e.tagName;
  return [name, !!e.closest(selector)]; }"""


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    """Serves a page of a model at an address of this machine, until the tests are over."""
    with ExitStack() as stack:

        def start(medvlm: MedVLM, **options: Any) -> str:
            bound = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            app = build_app(medvlm, **options)
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            return f"http://127.0.0.1:{bound.getsockname()[1]}"

        yield start


@pytest.fixture(scope="module")
def medvlm() -> Iterator[MedVLM]:
    with MedVLM.load("phantom-base") as model:
        yield model


@pytest.fixture(scope="module")
def address(serve: Callable[..., str], medvlm: MedVLM) -> str:
    return serve(medvlm)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end nothing may have gone wrong in it, nor left this machine."""
    contexts, troubles = [], []

    def open_page(url: str, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("response", lambda reply: troubles.append(reply.url) if reply.status >= 400 else None)

        def leave(route: Any) -> None:
            if not route.request.url.startswith((url, "data:", "blob:")):
                troubles.append(f"leaves the machine: {route.request.url}")
                route.abort()
            else:
                route.continue_()

        page.route("**/*", leave)
        page.goto(url)
        page.wait_for_selector("#ask")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def drop(page: Any, file: str | Path) -> None:
    page.set_input_files("#drop input[type=file]", str(file))
    page.get_by_text(Path(file).name, exact=True).wait_for()


def say(page: Any, question: str, options: str = "") -> None:
    page.fill("#question textarea", question)
    page.fill("#options textarea", options)


def example(page: Any, label: str) -> None:
    page.get_by_role("button", name=label).click()
    page.wait_for_selector("#picture img")


def in_use(page: Any, text: str) -> None:
    page.locator("#in-use", has_text=text).wait_for()


def answered(page: Any) -> None:
    page.wait_for_selector("#check:not([disabled])")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_dicom_is_read_questioned_doubted_and_saved(
    visit: Callable[..., Any], address: str, medvlm: MedVLM, width: int, scheme: str, tmp_path: Path
) -> None:
    page = visit(address, width, scheme)
    drop(page, DICOM)
    in_use(page, "window soft-tissue 40/400 HU")
    before = page.get_attribute("#picture img", "src")
    page.get_by_label("Bone 400/1800 HU").click()
    in_use(page, "window bone 400/1800 HU")
    assert page.get_attribute("#picture img", "src") != before
    page.locator("#center input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    in_use(page, "window given 401/1800 HU")
    say(page, "Which modality is this?", "MRI\nCT")
    page.keyboard.press("Control+Enter")
    answered(page)
    expected = medvlm.ask(DICOM, "Which modality is this?", ["MRI", "CT"], window="401/1800")
    assert page.inner_text("#answer .answer") == f"{expected.letter}) {expected.option}"
    assert page.inner_text("#answer .reasoning") == expected.reasoning
    shown = page.locator("#answer .percent").all_inner_texts()
    assert [round(100 * p) for p in expected.confidence.values()] == [int(re.sub(r"\D", "", text)) for text in shown]
    page.click("#check")
    page.wait_for_selector("#checks .check:nth-child(4)")
    answered(page)
    assert page.locator("#checks .results tbody th").all_inner_texts() == [
        "Original",
        "Blank image",
        "Mirrored image",
        "Shifted options",
        "No reasoning",
    ]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as saving:
        page.click("#export")
    saved = tmp_path / saving.value.suggested_filename
    saving.value.save_as(saved)
    assert saved.name == "case-1.html"
    check_saved(visit, saved, f"{expected.letter}) {expected.option}")


def check_saved(visit: Callable[..., Any], saved: Path, answer: str) -> None:
    text = re.sub(r'data:[^"]+', "", saved.read_text())
    assert answer in text
    assert "window given 401/1800 HU" in text
    assert text.count(RESEARCH_USE) >= 2
    header = dcmread(DICOM)
    named = [str(header[field].value) for field in FIELDS if field in header]
    assert len(named) >= 5
    assert [value for value in (*named, "CT_small") if value and value in text] == []
    assert "//" not in text


def test_a_picture_file_a_volume_and_an_open_question(visit: Callable[..., Any], address: str, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "red.png")
    volume = np.arange(12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    page = visit(address, 390)
    drop(page, tmp_path / "red.png")
    in_use(page, "PNG, 60 x 40.")
    assert not page.is_visible("#view")
    say(page, "What color is this?")
    page.click("#ask")
    answered(page)
    assert page.locator("#answer .share").count() == 0
    drop(page, tmp_path / "volume.nii.gz")
    in_use(page, "axial slice 4 of 8")
    page.locator("#slice input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    in_use(page, "axial slice 5 of 8")
    page.get_by_label("Coronal").check()
    in_use(page, "coronal slice 5 of 10")
    page.click("#ask")
    page.locator("#history label").nth(1).wait_for()
    answered(page)
    assert "coronal slice 5 of 10" in page.inner_text("#answer")
    page.locator("#history label").first.click()
    page.locator("#answer .meta", has_text="PNG, 60 x 40.").wait_for()
    # Read into memory, and deleted.
    assert not [file for file in private_uploads().rglob("*") if file.is_file()]


def test_what_goes_wrong_is_said_in_words(visit: Callable[..., Any], serve: Callable[..., str], tmp_path: Path) -> None:
    page = visit(serve(scripted("<answer>A</answer>"), max_upload=4000))

    def message(text: str) -> None:
        page.locator("#message [role=alert]", has_text=text).wait_for()

    page.click("#ask")
    message("No image yet")
    files = {"broken.dcm": b"nothing of an image", "big.dcm": b"x" * 5000}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#drop input[type=file]", str(tmp_path / "broken.dcm"))
    message("broken.dcm: not a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image but plain text")
    page.set_input_files("#drop input[type=file]", str(tmp_path / "big.dcm"))
    page.get_by_text("exceed the maximum allowed size").wait_for()
    example(page, "MRI (DICOM)")
    in_use(page, "DICOM, 64 x 64")
    say(page, " ")
    page.click("#ask")
    message("No question yet")
    say(page, "What is it?", "one")
    page.click("#ask")
    message("one option ('one'); a question needs at least two")
    assert "Traceback" not in page.inner_text("body")


def test_every_example_can_be_clicked_and_the_notice_stays(visit: Callable[..., Any], address: str) -> None:
    page = visit(address, 390)
    for label, load in EXAMPLES.items():
        page.get_by_role("button", name=label).click()
        page.locator("#picture .name", has_text=load().name).wait_for()
        assert page.input_value("#question textarea") == load().question
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    assert 0 <= page.get_by_text(RESEARCH_USE).first.bounding_box()["y"] < 60


def test_text_of_a_model_is_never_run(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    reasoning = "<img src=x onerror=alert(1)> ${alert(2)} {{alert}} </script>"
    page = visit(serve(scripted(f"<think>{reasoning}</think><answer>A</answer>")))
    page.on("dialog", lambda dialog: pytest.fail("a script of the model's text was run"))
    example(page, "CT (DICOM)")
    say(page, "What?", "<b>bold</b>\nno")
    page.click("#ask")
    answered(page)
    assert page.inner_text("#answer .reasoning") == reasoning
    assert page.inner_text("#answer .answer") == "A) <b>bold</b>"
    assert page.locator("#answer b").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_boxes_are_drawn_over_the_image_while_streamed_and_when_saved(
    visit: Callable[..., Any], serve: Callable[..., str], width: int, scheme: str, tmp_path: Path
) -> None:
    model = scripted("<think>A nodule.</think><box>250,500,500,750</box><box>9,9,9,9</box><answer>A</answer>")
    page = visit(serve(model, template="medvlm-r1-box"), width, scheme)
    example(page, "CT (DICOM)")
    say(page, "What?", "nodule\nnothing")
    page.click("#ask")
    answered(page)

    def drawn(root: str) -> tuple[float, ...]:
        """The box of the line, as fractions of the image."""
        image, line = (page.locator(f"{root} {part}").bounding_box() for part in (".seen img", ".boxes .stated.line"))
        edges = (line["x"] - image["x"], line["y"] - image["y"], line["width"], line["height"])
        return tuple(edge / image[("width", "height")[axis % 2]] for axis, edge in enumerate(edges))

    assert drawn("#answer") == pytest.approx((0.25, 0.5, 0.25, 0.25), abs=0.02)
    assert page.inner_text("#answer .box-legend").strip() == "the model’s box"
    assert page.inner_text("#answer .reasoning") == "A nodule."
    assert "Malformed boxes are not shown." in page.inner_text("#answer")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.click("#check")
    page.wait_for_selector("#checks .check:nth-child(4)")
    answered(page)
    assert page.locator("#checks .boxes").count() == 2
    with page.expect_download() as saving:
        page.click("#export")
    saving.value.save_as(tmp_path / "case.html")
    page.route("**/*", lambda route: route.continue_())
    page.goto((tmp_path / "case.html").as_uri())
    assert drawn(".case") == pytest.approx((0.25, 0.5, 0.25, 0.25), abs=0.02)


def test_stop_stops_the_model(visit: Callable[..., Any], serve: Callable[..., str]) -> None:
    model = scripted("", seconds=0.02)
    page = visit(serve(model))
    example(page, "CT (DICOM)")
    page.click("#ask")
    page.locator("#answer .reasoning", has_text="word word").wait_for()
    assert page.is_disabled("#ask")
    page.click("#stop")
    page.get_by_text("Stopped.").wait_for()
    assert model.backend.closed.wait(20)
    page.wait_for_selector("#ask:not([disabled])")
    assert page.is_disabled("#export")


def test_a_whole_reading_needs_no_mouse_and_every_field_has_a_name(
    visit: Callable[..., Any], serve: Callable[..., str]
) -> None:
    page = visit(serve(scripted("<think>bright bone</think><answer>B</answer>", shares=(0.2, 0.8))))
    # Choosers are caught from now on: asked for only when the key is pressed, some come before that is arranged.
    page.on("filechooser", lambda chooser: None)

    def reach(selector: str) -> None:
        """Press Tab until the selector has the focus, never beyond the end of the page."""
        for _ in range(60):
            page.keyboard.press("Tab")
            name, inside = page.evaluate(FOCUS, selector)
            assert name not in ("INPUT", "TEXTAREA", "BODY")
            if inside:
                return
        pytest.fail(f"the Tab key does not reach {selector}")

    reach("#drop")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(DICOM)
    in_use(page, "window soft-tissue 40/400 HU")
    reach("#examples")
    reach("#window [value=brain]")
    page.keyboard.press("Space")
    in_use(page, "window brain 40/80 HU")
    reach("#center input[type=range]")
    page.keyboard.press("ArrowRight")
    in_use(page, "window given 41/80 HU")
    reach("#question")
    page.keyboard.type("Which modality is this?")
    reach("#options")
    page.keyboard.type("MRI\nCT")
    reach("#ask")
    page.keyboard.press("Enter")
    answered(page)
    assert page.inner_text("#answer .answer") == "B) CT"
    reach("#check")
    page.keyboard.press("Enter")
    page.wait_for_selector("#checks .check:nth-child(4)")
    answered(page)
    reach("#export")
    with page.expect_download() as saving:
        page.keyboard.press("Enter")
    assert saving.value.suggested_filename == "case-1.html"
    reach("#history")
