"""The shared forward against the plain one, which runs every row alone and without padding."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import Waits
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook
from trl.trainer.utils import add_fused_lm_head

from medvlm_r1.errors import UserError
from medvlm_r1.models.families import FAMILIES
from medvlm_r1.models.sharing import forward
from medvlm_r1.models.sharing.forward import encode_images, shared_logps, supports
from medvlm_r1.training.self_check.equality import (
    GRADIENTS,
    GROUPS,
    IMAGE,
    LOGPS,
    TINY,
    VOCABULARY,
    Prompt,
    make_rows,
    plain_logps,
)

few = settings(max_examples=10, deadline=None, derandomize=True)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
prompts = st.builds(Prompt, st.integers(1, 5), st.lists(sizes, max_size=2).map(tuple))
groups = st.lists(st.tuples(prompts, st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=3)
PAIR = GROUPS


def scalar(logps, entropies):
    """A loss in which every token has its own weight."""
    weights = torch.linspace(-1, 2, len(logps))
    return (weights * logps).sum() + 0.3 * (weights.flip(0) * entropies).sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def hold_equal(model, family, rows, temperature=1.0, **options):
    wanted = plain_logps(model, family, rows, temperature)
    wanted_gradients = gradients(model, scalar(*wanted))
    logps, entropies = shared_logps(model, **rows.inputs, compute_entropy=True, temperature=temperature, **options)
    assert entropies is not None
    scored = rows.inputs["attention_mask"][:, -rows.inputs["logits_to_keep"] :].bool()
    for got, want in ((logps, wanted[0]), (entropies, wanted[1])):
        assert got.shape == scored.shape
        assert not got[~scored].any()
        torch.testing.assert_close(got[scored], want, atol=LOGPS, rtol=0)
    got_gradients = gradients(model, scalar(logps[scored], entropies[scored]))
    assert got_gradients.keys() == wanted_gradients.keys()
    whole = torch.stack([g.norm() for g in wanted_gradients.values()]).norm()
    for name, want in wanted_gradients.items():
        # Tensors with next to no gradient (a key's bias has none at all) are held against the whole.
        scale = torch.maximum(want.norm(), 1e-3 * whole)
        assert (got_gradients[name] - want).norm() <= GRADIENTS * scale, name


@cache
def tiny(family, attention="sdpa"):
    return TINY[family].model(attention)


def test_every_family_of_the_table_is_tested_here():
    assert TINY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", sorted(TINY))
def test_log_probabilities_entropies_and_gradients_are_the_plain_ones(family):
    assert supports(tiny(family)) is None

    @given(groups, st.sampled_from([1.0, 0.7]))
    @few
    def check(given, temperature):
        hold_equal(tiny(family), family, make_rows(family, given), temperature)

    check()


def windowed(family, attention):
    text = {**TINY[family].config["text_config"], "use_sliding_window": True, "sliding_window": 5}
    text["layer_types"] = ["full_attention", "sliding_attention"]
    return TINY[family].model(attention, text_config=text)


def checkpointed(family, reentrant):
    model = TINY[family].model()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model


@pytest.mark.parametrize(
    ("build", "family", "option"),
    [
        *((tiny, family, "eager") for family in ("qwen2_vl", "gemma3", "smolvlm")),
        *((windowed, "qwen2_vl", attention) for attention in ("sdpa", "eager")),
        *((checkpointed, family, reentrant) for family in ("qwen2_vl", "qwen3_vl") for reentrant in (False, True)),
    ],
)
def test_eager_attention_windows_and_checkpointing_are_equal_too(build, family, option):
    hold_equal(build(family, option), family, make_rows(family, PAIR))


def test_pixtral_images_of_several_sizes():
    pixels = torch.randn(2, 3, 24, 24)
    vision = {"model_type": "pixtral", "hidden_size": 32, "head_dim": 16, "intermediate_size": 48, "patch_size": 4}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 24}
    config = {"vision_config": vision, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    model = TINY["llava"].model(**config)
    grids = torch.tensor([[8, 12], [24, 16]])
    ids = torch.randint(10, VOCABULARY, (2, 36))
    ids[0, 1:7], ids[1, 2:26] = IMAGE, IMAGE
    shared, _ = shared_logps(
        model,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        logits_to_keep=6,
        group_sizes=[1, 1],
        vision={"pixel_values": pixels, "image_sizes": grids},
    )
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_sizes=grids).logits
    want = logits[:, -7:-1].log_softmax(-1).gather(-1, ids[:, -6:, None])[..., 0]
    torch.testing.assert_close(shared, want, atol=LOGPS, rtol=0)


@pytest.mark.parametrize("family", ["qwen2_vl", "internvl"])
def test_lora_active_and_switched_off(family):
    base = TINY[family].model()
    rows = make_rows(family, PAIR)
    before, _ = shared_logps(base, **rows.inputs)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    assert supports(model) is None
    hold_equal(model, family, rows)
    assert all(p.grad is None for name, p in model.named_parameters() if "lora" not in name)
    with model.disable_adapter():
        off, _ = shared_logps(model, **rows.inputs)
    on, _ = shared_logps(model, **rows.inputs)
    torch.testing.assert_close(off, before)
    assert (on - before).abs().max() > 1e-2


def test_rows_as_trl_scores_them():
    """The padded batch through TRL's own patched forward, the vision inputs repeated for every row."""
    model, rows = TINY["qwen2_vl"].model(), make_rows("qwen2_vl", PAIR)
    add_fused_lm_head(model, temperature=0.8, outputs=("log_probs", "entropy"))
    kept, ids, mask = (rows.inputs[key] for key in ("logits_to_keep", "input_ids", "attention_mask"))
    repeated = [prompt for prompt, lengths in PAIR for _ in lengths]
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-kept] = -100
    vision, extra = TINY["qwen2_vl"].pixels(repeated), TINY["qwen2_vl"].extra(ids)
    want = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True, **vision, **extra)
    logps, entropies = shared_logps(model, **rows.inputs, temperature=0.8, compute_entropy=True)
    torch.testing.assert_close(logps, want.log_probs[:, -kept:], atol=LOGPS, rtol=0)
    torch.testing.assert_close(entropies, want.entropy[:, -kept:], atol=LOGPS, rtol=0)


@pytest.mark.parametrize("chunk", [1, 10, 96, 5000])
def test_the_width_of_the_heads_tiles_changes_nothing(chunk):
    hold_equal(tiny("qwen2_vl"), "qwen2_vl", make_rows("qwen2_vl", PAIR), chunk=chunk)


def test_no_product_of_the_head_is_wider_than_a_tile(monkeypatch):
    shapes = []
    multiply = torch.mm

    def watched(a, b, *, out):
        shapes.append(tuple(out.shape))
        return multiply(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    rows = make_rows("qwen2_vl", PAIR)
    logps, _ = shared_logps(tiny("qwen2_vl"), **rows.inputs, chunk=16)
    logps.sum().backward()
    scored = sum(sum(lengths) for _, lengths in PAIR)
    # Forward and again backward: six tiles of 16 columns and the last one, completion tokens alone.
    assert shapes == 2 * [*6 * [(scored, 16)], (scored, 1)]


def test_bfloat16_stays_near_float32():
    rows = make_rows("qwen2_vl", PAIR)
    model = TINY["qwen2_vl"].model().bfloat16()
    exact, _ = shared_logps(tiny("qwen2_vl"), **rows.inputs)
    for head_fp32 in (False, True):
        logps, _ = shared_logps(model, **rows.inputs, head_fp32=head_fp32)
        assert logps.dtype == torch.float32
        torch.testing.assert_close(logps, exact, atol=0.15, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        logps, _ = shared_logps(tiny("qwen2_vl"), **rows.inputs)
    torch.testing.assert_close(logps, exact, atol=0.15, rtol=0)


@pytest.mark.parametrize("family", sorted(TINY))
def test_features_kept_by_the_caller_in_two_parts(family, monkeypatch):
    model, rows = tiny(family), make_rows(family, PAIR)
    want, _ = shared_logps(model, **rows.inputs)
    with torch.no_grad():
        parts = [encode_images(model, TINY[family].pixels([prompt])) for prompt, _ in PAIR]
    kept = {**rows.inputs, "vision": {k: v for k, v in rows.inputs["vision"].items() if k != "pixel_values"}}

    def unwanted(*args, **kwargs):
        raise AssertionError("the tower ran again")

    monkeypatch.setattr(model.base_model, "get_image_features", unwanted)
    got, _ = shared_logps(model, **kept, image_features=parts[0] + parts[1])
    torch.testing.assert_close(got, want, atol=LOGPS, rtol=0)


def test_the_tower_runs_once_a_batch_and_the_layers_see_each_token_once():
    model, rows = tiny("qwen2_vl"), make_rows("qwen2_vl", PAIR)
    seen = []
    tower = model.model.visual.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    layer = model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )
    shared_logps(model, **rows.inputs)
    tower.remove()
    layer.remove()
    patches = 4 * sum(h * w for prompt, _ in PAIR for h, w in prompt.sizes)
    tokens = sum(map(len, rows.prompts)) + sum(sum(lengths) for _, lengths in PAIR)
    assert seen == [patches, tokens]


@pytest.mark.parametrize("family", sorted(TINY))
def test_a_blank_image_meets_the_modules_in_the_order_of_another(family):
    """ZeRO-3 compares the orders of all processes."""
    illustrated, bare = (make_rows(family, [(Prompt(3, images), [2, 3])]).inputs for images in (((2, 2),), ()))
    orders = []
    for rows in (illustrated, {**bare, "blank": illustrated["vision"]}):
        order = []
        with register_module_forward_pre_hook(lambda module, _, order=order: order.append(module)):
            shared_logps(tiny(family), **rows)
        orders.append(order)
    assert orders[0] == orders[1]


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_the_tower_learns_from_the_rows_with_images_alone(family):
    """Rows of a prompt without an image and rows of one with an image, in one batch."""
    model = tiny(family)
    rows = make_rows(family, ((Prompt(3, ()), (2, 4)), (Prompt(2, ((2, 2),)), (3, 1))))
    mask = rows.inputs["attention_mask"][:, -rows.inputs["logits_to_keep"] :]

    def tower(weights):
        logps, _ = shared_logps(model, **rows.inputs)
        found = gradients(model, (logps * mask * torch.tensor(weights)[:, None]).sum())
        return {name: grad for name, grad in found.items() if "visual" in name or "vision" in name}

    both, text, image = tower([2.0, -3.0, 1.0, 5.0]), tower([2.0, -3.0, 0.0, 0.0]), tower([0.0, 0.0, 1.0, 5.0])
    assert not any(grad.any() for grad in text.values())
    assert any(grad.abs().max() > 1e-3 for grad in image.values())
    for name, grad in both.items():
        torch.testing.assert_close(grad, image[name], rtol=1e-4, atol=1e-6)


def test_rows_without_completion_tokens():
    rows = make_rows("qwen2_vl", PAIR)
    want, _ = shared_logps(tiny("qwen2_vl"), **rows.inputs)
    mask = rows.inputs["attention_mask"].clone()
    mask[1, -rows.inputs["logits_to_keep"] :] = 0
    got, _ = shared_logps(tiny("qwen2_vl"), **{**rows.inputs, "attention_mask": mask})
    assert not got[1].any()
    torch.testing.assert_close(got[[0, 2, 3, 4]], want[[0, 2, 3, 4]], atol=LOGPS, rtol=0)
    mask[:, -rows.inputs["logits_to_keep"] :] = 0
    none, entropies = shared_logps(tiny("qwen2_vl"), **{**rows.inputs, "attention_mask": mask}, compute_entropy=True)
    assert entropies is not None
    assert not none.any()
    assert not any(g.any() for g in gradients(tiny("qwen2_vl"), none.sum() + entropies.sum()).values())


def test_an_image_token_in_a_completion_is_named():
    rows = make_rows("qwen2_vl", PAIR)
    ids = rows.inputs["input_ids"].clone()
    ids[0, -rows.inputs["logits_to_keep"]] = IMAGE
    with pytest.raises(UserError, match=f"image token \\(id {IMAGE}\\)"):
        shared_logps(tiny("qwen2_vl"), **{**rows.inputs, "input_ids": ids})


@pytest.mark.parametrize("wrong", [[5], [2, 3], [3, 3], [0, 5], [3, -1, 3]])
def test_groups_that_do_not_fit_the_rows(wrong):
    rows = make_rows("qwen2_vl", PAIR)
    with pytest.raises(ValueError, match="group"):
        shared_logps(tiny("qwen2_vl"), **{**rows.inputs, "group_sizes": wrong})


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_the_shared_forward_waits_for_the_device_once(family, monkeypatch):
    rows, copies = make_rows(family, PAIR), []
    with torch.no_grad():
        features = encode_images(tiny(family), rows.inputs["vision"])
    waits, to_cpu = Waits(monkeypatch), Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda tensor: (copies.append(tensor.shape), to_cpu(tensor))[1])
    # Ours work on the CPU's copy of the ids; transformers' own counts the image tokens.
    places = [(forward, name) for name in ("_pack", "_positions", "_masks")]
    for place, name in [*places, (tiny(family).base_model, "get_placeholder_mask")]:
        plain = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, plain=plain, **kw: waits.without(plain, *args, **kw))
    with waits:
        shared_logps(tiny(family), **rows.inputs, image_features=features)
    # The check of the CPU's copy of the targets.
    assert waits.count == 1
    # Ids with their mask, and the sizes of the images.
    assert copies == [(2, *rows.inputs["input_ids"].shape), *([(3, 3)] if family == "qwen2_vl" else [])]
