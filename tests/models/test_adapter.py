"""LoRA adapters are loaded with their base model, and merged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm_r1.errors import UserError
from medvlm_r1.models import load
from medvlm_r1.models.adapter import CONFIG, WEIGHTS
from medvlm_r1.models.load import fingerprint, load_policy, locate, write_model
from tiny_policy import build_tiny_adapter


@pytest.fixture
def adapter(tiny_policy_dir, tmp_path):
    folder = tmp_path / "adapter"
    build_tiny_adapter(tiny_policy_dir, folder)
    return folder


@torch.inference_mode()
def logits(model):
    return model(input_ids=torch.arange(5, 25)[None]).logits


def with_peft(base, adapter):
    """The logits by peft's own way, unmerged."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(base, dtype="float32")
    return logits(PeftModel.from_pretrained(model, adapter).eval())


def rewrite(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True},
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [7, 8]},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
    ],
    ids=["plain", "rslora", "dora", "modules to save", "tokens", "bias"],
)
def test_a_loaded_adapter_gives_the_logits_of_peft(tiny_policy_dir, tmp_path, settings):
    build_tiny_adapter(tiny_policy_dir, tmp_path / "adapter", **settings)
    expected = with_peft(tiny_policy_dir, tmp_path / "adapter")
    policy = load_policy(str(tmp_path / "adapter"), device="cpu")
    torch.testing.assert_close(logits(policy.model), expected, rtol=1e-4, atol=1e-4)
    base = logits(load_policy(str(tiny_policy_dir), device="cpu").model)
    assert (base - expected).abs().max() > 0.1
    assert not [name for name, _ in policy.model.named_modules() if "lora" in name]


def test_a_merged_model_is_written_in_the_dtype_of_its_base(half, adapter, tmp_path):
    write_model(f"{adapter}#{half}", tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    # Every weight is the float32 sum rounded once.
    config, change = json.loads((adapter / CONFIG).read_text()), load_file(adapter / WEIGHTS)
    name = "layers.0.self_attn.q_proj"
    key = f"base_model.model.model.language_model.{name}.lora_"
    product = change[f"{key}B.weight"] @ change[f"{key}A.weight"] * config["lora_alpha"] / config["r"]
    stored = load_file(half / "model.safetensors")[f"model.{name}.weight"].float()
    torch.testing.assert_close(tensors[f"model.{name}.weight"], (stored + product).bfloat16(), rtol=0, atol=0)
    assert load_policy(str(tmp_path / "merged"), device="cpu").processor.image_processor is not None


def test_the_fingerprint_follows_adapter_and_base(tiny_policy_dir, adapter, tmp_path):
    first = fingerprint(str(adapter))
    assert first != fingerprint(str(tiny_policy_dir))
    assert fingerprint(f"{adapter}#{tiny_policy_dir}") == first
    other = Path(shutil.copytree(tiny_policy_dir, tmp_path / "other"))
    rewrite(other / "generation_config.json", temperature=0.3)
    assert fingerprint(f"{adapter}#{other}") != first
    _tensors(lambda tensors: next(iter(tensors.values())).add_(1e-3))(adapter)
    assert fingerprint(str(adapter)) != first


def test_the_base_is_found_on_record(tiny_policy_dir, tmp_path, monkeypatch):
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-4"
    build_tiny_adapter(tiny_policy_dir, checkpoint)
    expected = fingerprint(str(checkpoint))
    file = checkpoint / CONFIG
    rewrite(file, base_model_name_or_path="/gone/base")
    names = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        names.append((name, local_files_only))
        if name == "owner/absent":
            raise OSError("not in the cache")
        return str(tiny_policy_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(UserError, match=r"not on this machine \(on record as '/gone/base'\).*'.*checkpoint-4#BASE'"):
        load_policy(str(checkpoint))
    config = tmp_path / "run" / "config.yaml"
    config.write_text("model: owner/absent\n")
    with pytest.raises(UserError, match=r"on record as '/gone/base' and 'owner/absent'"):
        load_policy(str(checkpoint))
    config.write_text("model: owner/cached\n")
    load_policy(str(checkpoint), device="cpu")
    # What nobody named on the command line is looked for in the cache alone.
    assert names == [("owner/absent", True), ("owner/cached", True)]
    load_policy(f"{checkpoint}#owner/absent2", device="cpu")
    assert names[-1] == ("owner/absent2", False)
    config.write_text("model: phantom-base\n")
    monkeypatch.setattr(load, "phantom_base_dir", lambda: tiny_policy_dir)
    assert fingerprint(str(checkpoint)) != expected  # its own record of the base is one of its files
    assert len(names) == 3


Q_PROJ = "base_model.model.model.language_model.layers.{}.self_attn.q_proj.lora_A.weight"


def _tensors(change):
    """Rewrites the weights of an adapter."""

    def damage(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return damage


def _changed(**changes):
    return lambda folder: rewrite(folder / CONFIG, **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / WEIGHTS).rename(folder / "a.bin"), r"no adapter_model\.safetensors.*never read"),
        (lambda folder: (folder / CONFIG).write_text("{"), "not an adapter configuration"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "not an adapter configuration"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 40), "cannot be merged into"),
        (_changed(peft_type="NOPE"), "cannot be merged into"),
        (_changed(peft_type="PROMPT_TUNING"), "learned tokens before the prompt"),
        (_changed(r=3), r"cannot be merged into .*size mismatch.*Check that this is the base model"),
        (
            _changed(target_modules=["q_proj"]),
            "does not fit its base model: 36 tensors in the file that match no layer",
        ),
        (_changed(modules_to_save=["lm_head"]), r"cannot be merged into .*lm_head"),
        (
            _tensors(lambda tensors: tensors.pop(Q_PROJ.format(1))),
            r"1 tensor missing from the file \(.*layers\.1\.self_attn\.q_proj\.lora_A",
        ),
        (
            _tensors(lambda tensors: tensors.update({Q_PROJ.format(7): tensors[Q_PROJ.format(1)].clone()})),
            r"1 tensor in the file that match no layer.*layers\.7",
        ),
        (_tensors(lambda tensors: next(iter(tensors.values())).fill_(torch.nan)), r"cannot be merged into .*NaNs"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(adapter, damage, message):
    damage(adapter)
    with pytest.raises(UserError, match=message):
        load_policy(str(adapter), device="cpu")


def test_names_with_a_base_are_checked(tiny_policy_dir, adapter, tmp_path):
    with pytest.raises(UserError, match=r"cannot be merged into .*#BASE"):
        load_policy(f"{adapter}#phantom-base", device="cpu")
    with pytest.raises(UserError, match=r"not a LoRA adapter, so it takes no base model; leave out '#phantom-base'"):
        load_policy(f"{tiny_policy_dir}#phantom-base")
    with pytest.raises(UserError, match=r"medvlm-r1 export .* --out MERGED"):
        load_policy(f"{adapter}#{adapter}")
    with pytest.raises(UserError, match=r"medvlm-r1 export .* --out MERGED"):
        locate(str(adapter))
    marked = Path(shutil.copytree(tiny_policy_dir, tmp_path / "model#2"))
    assert fingerprint(str(marked)) == fingerprint(str(tiny_policy_dir))


def test_a_run_folder_names_the_models_in_it(adapter, tmp_path):
    shutil.copytree(adapter, tmp_path / "run" / "checkpoints" / "checkpoint-2")
    with pytest.raises(UserError, match=r"Name a model in it: .*checkpoint-2\."):
        load_policy(str(tmp_path / "run"))
