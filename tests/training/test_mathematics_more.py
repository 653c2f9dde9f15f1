"""Branches of the trainer's and the plan's mathematics that the common runs do not take."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import GenerationConfig

from medvlm_r1.errors import UserError
from medvlm_r1.models.sharing import forward as shared_prefix
from medvlm_r1.models.sharing.batch import _call, images_key, not_generated, not_shared
from medvlm_r1.training.dry_run.memory import optimizer_bytes
from medvlm_r1.training.dry_run.plan import _processor
from medvlm_r1.training.mixed_rows import forbid_vision_tokens
from medvlm_r1.training.self_check.equality import TINY, VOCABULARY, Prompt


def trainer(**changes):
    """What `not_shared` and `not_generated` read of a trainer, of one that shares up to the model."""
    given = {
        "tools": None,
        "environment_factories": None,
        "rollout_func": None,
        "aux_loss_enabled": False,
        "_dist": SimpleNamespace(is_zero3=False, fsdp_version=None),
        "_is_vlm": True,
        "use_vllm": False,
        "generation_kwargs": {},
        "args": SimpleNamespace(torch_compile=False, neftune_noise_alpha=None),
    }
    return SimpleNamespace(**given | changes)


ZERO3 = SimpleNamespace(is_zero3=True, fsdp_version=None)
COMPILED, NOISY = (
    SimpleNamespace(**{"torch_compile": False, "neftune_noise_alpha": None, name: value})
    for name, value in (("torch_compile", True), ("neftune_noise_alpha", 5.0))
)


@pytest.mark.parametrize(
    ("check", "changes", "why"),
    [
        (not_shared, {}, None),
        (not_shared, {"tools": [len]}, "tools"),
        (not_shared, {"environment_factories": {}}, "environments"),
        (not_shared, {"rollout_func": len}, "rollout function"),
        (not_shared, {"aux_loss_enabled": True}, "load-balancing"),
        (not_shared, {"_dist": SimpleNamespace(is_zero3=False, fsdp_version=1)}, "fsdp_version: 2"),
        (not_shared, {"_is_vlm": False}, "no image processor"),
        (not_shared, {"args": COMPILED}, "torch_compile"),
        (not_shared, {"args": NOISY}, "neftune_noise_alpha"),
        (not_generated, {}, None),
        (not_generated, {"use_vllm": True}, "vLLM generates"),
        (not_generated, {"generation_kwargs": {"penalty_alpha": 0.6}}, "'penalty_alpha'"),
        (
            not_generated,
            {"_dist": ZERO3, "args": SimpleNamespace(ds3_gather_for_generation=False)},
            "ds3_gather_for_generation",
        ),
    ],
)
def test_what_cannot_be_shared_is_named(check, changes, why):
    reason = check(trainer(**changes), TINY["qwen2_vl"].model())
    assert reason is None if why is None else why in reason


def test_layers_on_several_devices_are_not_shared():
    model = TINY["qwen2_vl"].model()
    model.hf_device_map = {"model.visual": 0, "model.language_model": 0}
    assert not_shared(trainer(), model) is None
    model.hf_device_map = {"model.visual": 0, "model.language_model": 1}
    assert "several devices" in not_shared(trainer(), model)


@pytest.mark.parametrize(
    ("stated", "why"),
    [
        ({"num_beams": 4}, "'num_beams'"),
        ({"num_return_sequences": 2, "do_sample": True}, "'num_return_sequences'"),
        ({"use_cache": False}, "'use_cache'"),
        ({"cache_implementation": "static"}, "'cache_implementation'"),
        ({"guidance_scale": 1.5}, "'guidance_scale'"),
        ({"max_length": 20}, None),
        ({"cache_implementation": "hybrid", "temperature": 0.7, "top_k": 5, "num_beams": 1, "use_cache": True}, None),
        (GenerationConfig._get_default_generation_params(), None),
    ],
)
def test_what_the_model_itself_states_of_generation_counts_too(stated, why):
    model = TINY["qwen2_vl"].model()
    model.generation_config = GenerationConfig(**stated)
    reason = not_generated(trainer(generation_kwargs={"max_new_tokens": 5, "top_k": 0}), model)
    assert reason is None if why is None else why in str(reason)
    if why == "'num_beams'":
        # What TRL itself is told goes first.
        assert not_generated(trainer(generation_kwargs={"num_beams": 1}), model) is None


@pytest.mark.parametrize(
    ("vllm", "given", "wanted"),
    [
        (True, {"bad_words": ["x"]}, {"bad_words": ["x", "<|image_pad|>", "<|video_pad|>"]}),
        (True, None, {"bad_words": ["<|image_pad|>", "<|video_pad|>"]}),
        (False, {"suppress_tokens": [9, 3]}, {"suppress_tokens": [3, 7, 8, 9]}),
    ],
)
def test_vision_tokens_are_forbidden_in_the_words_of_who_samples(vllm, given, wanted, monkeypatch):
    monkeypatch.setattr("medvlm_r1.training.mixed_rows.vision_token_ids", lambda *_: [7, 8])
    words = {7: "<|image_pad|>", 8: "<|video_pad|>"}
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: [words[item] for item in ids])
    policy = SimpleNamespace(model=None, processor=SimpleNamespace(tokenizer=tokenizer))
    args = SimpleNamespace(generation_kwargs=given, use_vllm=vllm)
    forbid_vision_tokens(args, policy)
    assert args.generation_kwargs == wanted


@pytest.mark.parametrize(
    ("optimizer", "bytes_"),
    [("adamw_torch_fused", 8.0), ("adamw_8bit", 2.0), ("paged_adamw_8bit", 2.0), ("adafactor", 0.0), ("sgd", 0.0)],
)
def test_state_of_an_optimizer_for_a_float32_weight(optimizer, bytes_):
    assert optimizer_bytes(optimizer, 4) == bytes_


def test_a_processor_that_is_not_one_for_images(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "transformers.AutoProcessor.from_pretrained", lambda *_, **__: SimpleNamespace(image_processor=None)
    )
    with pytest.raises(UserError, match="cannot compute the number of image tokens"):
        _processor(tmp_path)


def test_images_are_named_by_what_they_hold():
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert images_key(None) == images_key([]) == ""
    assert images_key([array]) == images_key([array.copy()])
    # A view that is laid out otherwise holds the same numbers.
    assert images_key([np.asfortranarray(array)]) == images_key([array])
    others = [[array.reshape(2, 3, 2)], [array.astype(np.int16)], [array + 1], [array, array], [Image.fromarray(array)]]
    assert len({images_key(item) for item in [[array], *others]}) == 6
    assert images_key([torch.from_numpy(array)]) == images_key([array])
    item, other = object(), object()
    assert images_key([item]) == images_key([item])
    assert images_key([item]) != images_key([other])


def test_prompts_whose_outputs_cannot_be_told_apart_are_processed_alone():
    calls = []

    def processor(*, text, **_):
        calls.append(text)
        ids = torch.tensor([[len(item)] for item in text])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "of_the_batch": torch.tensor(len(text))}

    outputs = _call(processor, ["a", "bb"], [[], []])
    assert calls == [["a", "bb"], ["a"], ["bb"]]
    assert [ids for ids, _ in outputs] == [[1], [2]]
    assert [int(fields["of_the_batch"]) for _, fields in outputs] == [1, 1]


def test_next_logits_want_a_completion_in_every_row():
    family = next(iter(TINY))
    model = TINY[family].model()
    prompt = TINY[family].ids(Prompt(3, ()))
    ids = torch.stack([torch.cat([prompt, torch.tensor([11, 12])])] * 2)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    with pytest.raises(ValueError, match="no completion token"):
        shared_prefix.next_logits(
            model, input_ids=ids, attention_mask=mask, logits_to_keep=2, group_sizes=[2], vision={}
        )


@pytest.fixture
def mesh():
    """A mesh of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("bias", [True, False])
def test_a_sharded_head_is_gathered_by_its_hooks(mesh, bias):
    model = TINY["qwen2_vl"].model()
    model.lm_head = head = nn.Linear(32, VOCABULARY, bias=bias)
    ids = torch.randint(10, VOCABULARY, (1, 9))
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "logits_to_keep": 5}
    rows |= {"group_sizes": [1], "vision": {}, "temperature": 0.7, "compute_entropy": True, "chunk": 7}
    logps, entropies = shared_prefix.shared_logps(model, **rows)
    plain = (model(input_ids=ids).logits[:, 3:-1] / 0.7).log_softmax(-1)
    assert torch.allclose(logps, plain.gather(-1, ids[:, 4:, None])[..., 0], atol=1e-5)
    (wanted,) = torch.autograd.grad(logps.sum(), head.weight, retain_graph=True)
    fully_shard(head, mesh=mesh)
    sharded, their_entropies = shared_prefix.shared_logps(model, **rows)
    sharded.sum().backward()
    assert torch.allclose(head.weight.grad.full_tensor(), wanted, atol=1e-6)
    assert torch.equal(sharded, logps)
    assert entropies is not None
    assert their_entropies is not None
    assert torch.equal(their_entropies, entropies)


def test_patches_by_a_matrix_product_and_wider_ones_by_convolution():
    model = TINY["qwen2_vl"].model()
    conv, plain = model.model.visual.patch_embed.proj, nn.Conv3d.forward
    single = torch.randn(6, conv.in_channels, *conv.kernel_size)
    wide = torch.cat([single, single], dim=-1)
    wanted = [plain(conv, x) for x in (single, wide)]
    shared_prefix.encode_images(model, TINY["qwen2_vl"].pixels([Prompt(1, ((1, 1),))]))
    for expected, x in zip(wanted, (single, wide), strict=True):
        assert conv(x).shape == expected.shape
        assert torch.allclose(conv(x), expected, atol=1e-5)
    assert type(conv) is shared_prefix._PatchConv
