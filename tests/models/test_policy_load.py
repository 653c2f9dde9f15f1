"""Finding and loading a policy."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from medvlm_r1.errors import UserError
from medvlm_r1.models import load
from medvlm_r1.models.load import fingerprint, load_policy, vision_token_ids


def test_loads_ready_to_answer(tiny_policy_dir):
    policy = load_policy(str(tiny_policy_dir), device="cpu")
    assert policy.name == str(tiny_policy_dir)
    assert not policy.model.training
    assert policy.model.dtype == torch.float32
    assert policy.processor.tokenizer.padding_side == "left"
    assert load_policy(str(tiny_policy_dir), dtype="bfloat16", device="cpu").model.dtype == torch.bfloat16


def test_vision_tokens_from_model_and_processor(tiny_policy_dir):
    policy = load_policy(str(tiny_policy_dir))
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    expected = sorted(policy.processor.tokenizer.convert_tokens_to_ids(names))
    assert vision_token_ids(policy.model) == expected
    assert vision_token_ids(policy.processor) == expected
    assert vision_token_ids(policy.model, policy.processor) == expected
    assert vision_token_ids() == []


def test_fingerprint_follows_what_changes_answers(copy, tiny_policy_dir):
    original = fingerprint(str(tiny_policy_dir))
    assert fingerprint(str(copy)) == original
    (copy / "README.md").write_text("a card")
    assert fingerprint(str(copy)) == original
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template + " ")
    assert fingerprint(str(copy)) != original
    (copy / "chat_template.jinja").write_text(template)
    _weights(lambda tensors: tensors["lm_head.weight"].add_(1e-3))(copy)
    assert fingerprint(str(copy)) != original


def _weights(change):
    """Rewrites the weights of a folder."""

    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def _added(*names):
    return _weights(lambda tensors: tensors.update({name: torch.zeros(2, 16) for name in names}))


def _without(*names):
    return _weights(lambda tensors: [tensors.pop(name) for name in names])


def _renamed(tensors):
    for name in list(tensors):
        tensors[f"base_model.model.{name}"] = tensors.pop(name)


def _tied(folder):
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))


TEXT_MODEL = json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]})
HALF = "model.norm.weight", *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(2)), "lm_head.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "a.bin"), r"no \*\.safetensors weights"),
        (lambda folder: os.truncate(folder / "model.safetensors", 30_000), "cannot be loaded"),
        (_without("lm_head.weight"), r"1 tensor missing from the file \(lm_head\.weight\)\. Copy the whole folder"),
        (
            _without(*HALF),
            r"4 tensors missing from the file \(lm_head\.weight, .*\.layers\.0\..*, .*\.layers\.1\..*, \.\.\.\)",
        ),
        (
            _added("model.layers.0.self_attn.q_proj.lora_A.default.weight"),
            r"1 tensor in the file that match.*q_proj\.lora_A.*LoRA weights that were not merged",
        ),
        (_added("model.layers.2.self_attn.q_proj.weight"), r"1 tensor in the file that match.*layers\.2\.self_attn"),
        (_added("v_head.weight", "v_head.bias"), r"2 tensors in the file that match no layer.*v_head\.bias"),
        (_weights(_renamed), r"46 tensors missing from the file .*; 46 tensors in the file that match no layer"),
        (
            _weights(lambda tensors: tensors.update({"lm_head.weight": torch.zeros(3, 16)})),
            r"1 tensor of another shape than the model's \(lm_head\.weight\)",
        ),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "full weights .* an adapter"),
        (lambda folder: (folder / "config.json").unlink(), r"it has no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (
            lambda folder: (folder / "config.json").write_text(TEXT_MODEL),
            "cannot be loaded as an image-text-to-text model",
        ),
        (lambda folder: (folder / "processor_config.json").unlink(), "processor"),
    ],
)
def test_unusable_folders(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message):
        load_policy(str(copy))


@pytest.mark.parametrize(
    "harmless",
    [
        _tied,
        lambda folder: (_tied(folder), _without("lm_head.weight")(folder)),
        lambda folder: (_tied(folder), _without("model.embed_tokens.weight")(folder)),
        _added("model.layers.0.self_attn.rotary_emb.inv_freq"),
    ],
    ids=["tied, both stored", "tied, no head", "tied, no embedding", "old buffer"],
)
def test_tied_weights_and_what_a_family_no_longer_has_are_not_missed(copy, harmless):
    harmless(copy)
    load_policy(str(copy), device="cpu")


def test_hub_is_asked_only_when_there_is_no_folder(tiny_policy_dir, tmp_path, monkeypatch):
    names = []

    def snapshot_download(name, *, allow_patterns, local_files_only):
        assert not local_files_only
        names.append(name)
        assert not any(pattern.endswith((".py", ".bin")) for pattern in allow_patterns)
        if name == "owner/model":
            return str(tiny_policy_dir)
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_policy_dir, tmp_path / "here" / "policy")
    assert load_policy("here/policy").name == "here/policy"
    with pytest.raises(UserError, match="No model folder '/no/such/folder', and it is not a hub id"):
        load_policy("/no/such/folder")
    assert names == []
    assert load_policy("owner/model").name == "owner/model"
    with pytest.raises(UserError, match=r"'owner/other' could not be fetched \(LocalEntryNotFoundError\)"):
        load_policy("owner/other")
    assert names == ["owner/model", "owner/other"]


def test_phantom_base_is_the_folder_inside_the_package(tiny_policy_dir, monkeypatch):
    assert load.phantom_base_dir().parent == Path(load.__file__).parent
    monkeypatch.setattr(load, "phantom_base_dir", lambda: tiny_policy_dir)
    assert fingerprint("phantom-base") == fingerprint(str(tiny_policy_dir))
