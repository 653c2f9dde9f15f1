"""Images that a model's processor cannot take are found before the model is asked."""

import json
import shutil

import pytest
from PIL import Image
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    PixtralImageProcessor,
    Qwen2VLImageProcessor,
    SmolVLMImageProcessor,
)

from medvlm_r1.data import read_folder
from medvlm_r1.data.check import check_folders
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import image_fit, load_policy
from medvlm_r1.models.processor import ImageFit, load_processor

SIZES = [(1, 1), (1, 300), (300, 1), (2000, 5), (5, 2000), (3000, 1), (20, 4000), (20, 4001), (64, 48)]
NARROW = "row 3 (id 'q2'), images/2.png, 2000 x 5 pixels: absolute aspect ratio must be smaller than 200, got 400.0"


@pytest.fixture
def narrow(data_dir, tmp_path):
    """The eight questions, the third about an image of 2000 x 5 pixels."""
    folder = tmp_path / "narrow"
    shutil.copytree(data_dir, folder)
    Image.new("RGB", (2000, 5), (9, 90, 160)).save(folder / "images" / "2.png")
    return folder


@pytest.mark.parametrize(
    ("processor", "refused"),
    [
        (Qwen2VLImageProcessor(), {(1, 300), (300, 1), (2000, 5), (5, 2000), (3000, 1), (20, 4001)}),
        (PixtralImageProcessor(), {(3000, 1)}),
        (Idefics3ImageProcessor(), set()),
        (SmolVLMImageProcessor(), set()),
        (GotOcr2ImageProcessor(), set()),
        (Gemma3ImageProcessor(), set()),
        (CLIPImageProcessor(), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_answer_is_that_of_the_processor(processor, refused):
    fit = ImageFit(model="m", processor=processor)
    assert {size for size in SIZES if fit(size)} == refused
    for size in refused:
        with pytest.raises(ValueError, match=r"aspect ratio|[Ss]ize"):
            processor(images=[Image.new("RGB", size)], return_tensors="pt")


def test_rows_are_named(narrow, tiny_policy_dir, command, tmp_path):
    arguments = ["eval", tiny_policy_dir, "--data", narrow, "--max-new-tokens", 2, "--out", tmp_path / "run"]
    code, _, err = command(*arguments)
    assert code == 1
    assert f"cannot take images of 1 row: {NARROW}" in err
    assert "--skip-missing" in err
    assert not (tmp_path / "run").exists()
    code, out, err = command(*arguments, "--skip-missing", "--json")
    results = json.loads(out)
    assert (code, results["n"], results["n_missing"]) == (0, 7, 1)
    assert f"Left out: {narrow / 'samples.jsonl'}" in err
    assert NARROW in err
    code, _, err = command("audit", "model", tiny_policy_dir, "--data", narrow, "--out", tmp_path / "audit")
    assert code == 1
    assert NARROW in err


def test_training_and_its_plan_refuse(narrow, write_config, command):
    file = write_config(data={"train": str(narrow)})
    for more in (["--dry-run"], []):
        code, _, err = command("train", "grpo", "--config", file, *more)
        assert code == 1
        assert NARROW in err
        assert "data.skip_missing" in err
    skip = ["data.skip_missing=true", f"data.eval={narrow}", "evaluate_every=1"]
    code, _, err = command("train", "grpo", "--config", file, *skip)
    assert code == 0
    assert NARROW in err


def test_data_check_and_import(narrow, data_dir, tiny_policy_dir, command):
    code, out, _ = command("data", "check", narrow)
    assert code == 0
    code, out, _ = command("data", "check", narrow, "--model", tiny_policy_dir)
    assert code == 1
    assert "narrow q2: 2000 x 5 pixels: absolute aspect ratio must be smaller than 200" in out
    assert "1 image of a size that the model cannot process" in out
    page = narrow.parent / "check.html"
    command("data", "check", narrow, "--model", tiny_policy_dir, "--out", page)
    assert "2000 x 5 pixels" in page.read_text()
    code, _, _ = command("data", "check", data_dir, "--model", tiny_policy_dir)
    assert code == 0
    assert check_folders([narrow]).unfit.count == 0
    rows = narrow / "rows.jsonl"
    fields = {"question": "Which?", "options": ["a", "b"], "answer": "a", "modality": "CT"}
    rows.write_text("".join(json.dumps({"image": f"images/{n}.png", **fields}) + "\n" for n in range(3)))
    out_dir = narrow.parent / "imported"
    code, out, err = command(
        "data", "import", "jsonl", rows, "--images", narrow, "--out", out_dir, "--model", tiny_policy_dir, "--json"
    )
    assert code == 0
    assert "row 3 " in err
    assert len(json.loads(out)["unfit"]) == 1


def test_ask_refuses_before_the_model_is_loaded(narrow, tiny_policy_dir, command, monkeypatch):
    asked = ["--image", narrow / "images/2.png", "--question", "Which?", "--option", "a", "--option", "b"]
    with monkeypatch.context() as patch:
        patch.setattr("medvlm_r1.serving.medvlm.MedVLM.load", None)
        code, _, err = command("ask", tiny_policy_dir, *asked)
    assert code == 1
    assert "cannot take its image of 2000 x 5 pixels: absolute aspect ratio" in err
    item = GenerationInput(
        prompt=[{"role": "user", "content": [{"type": "image"}]}], images=[Image.new("RGB", (2000, 5))]
    )
    generator = LocalGenerator(policy=load_policy(str(tiny_policy_dir), device="cpu"))
    with pytest.raises(UserError, match=r"Item 0: .* cannot take its image of 2000 x 5 pixels"):
        generator.generate([item], GenerationSettings(max_new_tokens=1))


def test_pixel_bounds_that_contradict_the_processor(write_config, command):
    for bounds, message in (
        (["max_pixels=700"], "max_pixels (700) is below min_pixels (784)"),
        (["max_pixels=700", "min_pixels=100"], "max_pixels (700) is below the pixels of one image token (784)"),
    ):
        for more in (["--dry-run"], []):
            code, _, err = command("train", "grpo", "--config", write_config(), *bounds, *more)
            assert code == 1
            assert message in err


def test_a_missing_package_is_named_with_its_extra(tiny_policy_dir, monkeypatch):
    def needs_package(*_, **__):
        raise ImportError("Package `num2words` is required to run SmolVLM processor.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", needs_package)
    for load in (load_processor, lambda folder: load_policy(str(folder), device="cpu")):
        with pytest.raises(UserError, match=r"num2words.*pip install 'medvlm-r1\[smolvlm\]'"):
            load(tiny_policy_dir)


def test_unreadable_images_are_not_asked_about(narrow, tiny_policy_dir):
    (narrow / "images" / "0.png").write_bytes(b"no image")
    samples = read_folder(narrow)
    assert [sample.id for sample in unreadable_samples(samples, image_sizes(narrow, samples))] == ["q0"]
    assert image_fit(str(tiny_policy_dir)).unfit(enumerate(samples, start=1), {"images/0.png": None}) == {}
