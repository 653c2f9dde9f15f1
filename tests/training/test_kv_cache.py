"""Attention to a shared prompt read once, against PyTorch's over the prompt copied to each row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicLayer

from medvlm_r1.models.decoding.kv_cache import GroupIndex, RowSelection, SharedKV, SharedLayer

HEADS, WIDTH, LENGTH = 2, 4, 5
CPU = torch.device("cpu")


def layer_of(prompts):
    layer = DynamicLayer()
    layer.update(torch.randn(prompts, HEADS, LENGTH, WIDTH), torch.randn(prompts, HEADS, LENGTH, WIDTH))
    return layer


def grown(owner, prompts=None):
    """A layer whose rows belong to these prompts, with one token of each row, and the token's keys."""
    prompts = layer_of(max(owner) + 1) if prompts is None else prompts
    layer = SharedLayer(prompts, GroupIndex(owner, CPU))
    new = torch.randn(2, len(owner), HEADS, 1, WIDTH).to(prompts.keys.dtype)
    layer.update(new[0], new[1])
    return layer, new[0]


def plain(query, layer, mask):
    keys, values = layer.keys.whole(), layer.values.whole()
    groups = query.shape[1] * query.shape[2] // HEADS
    rows = query.reshape(len(query), HEADS * groups, 1, WIDTH)
    keys, values = (states.repeat_interleave(groups, dim=1) for states in (keys, values))
    return scaled_dot_product_attention(rows, keys, values, attn_mask=mask).reshape(query.shape)


@settings(max_examples=60, deadline=None)
@given(
    owner=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    groups=st.integers(1, 3),
    masked=st.sampled_from([None, "bool", "float"]),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_the_result_is_that_of_plain_attention_while_rows_go(owner, groups, masked, seed, data):
    torch.manual_seed(seed)
    prompt = torch.tensor(owner).unique(return_inverse=True)[1]
    source = layer_of(int(prompt.max()) + 1)
    index = GroupIndex(prompt.tolist(), CPU)
    layer = SharedLayer(source, index)
    own = []
    for step in range(3):
        rows = len(prompt)
        new = torch.randn(2, rows, HEADS, 1, WIDTH)
        layer.update(new[0], new[1])
        own.append(new[0])
        mask = None
        if masked:
            hidden = torch.rand(rows, 1, 1, LENGTH + step + 1) < 0.3
            hidden[..., -1] = False
            mask = ~hidden if masked == "bool" else torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
        query = torch.randn(rows, HEADS, groups, WIDTH)
        attended = scaled_dot_product_attention(query, layer.keys, layer.values, attn_mask=mask)
        assert torch.allclose(attended, plain(query, layer, mask), atol=1e-6)
        # What was written is what is read, whatever rows have gone.
        assert torch.equal(layer.keys.whole()[:, :, LENGTH:], torch.cat(own, dim=2))
        keep = torch.tensor(data.draw(st.permutations(range(rows)))[: data.draw(st.integers(1, rows))])
        prompt, own = prompt[keep], [states[keep] for states in own]
        index.regroup(prompt.tolist())
        layer.select(RowSelection(keep.tolist(), CPU))


def test_query_heads_of_one_key_head_and_a_scale_of_ones_own():
    torch.manual_seed(0)
    layer, _ = grown([1, 0, 1])
    query = torch.randn(3, 2 * HEADS, 1, WIDTH)
    options = {"scale": 0.3, "enable_gqa": True}
    attended = scaled_dot_product_attention(query, layer.keys, layer.values, **options)
    expected = scaled_dot_product_attention(query, layer.keys.whole(), layer.values.whole(), **options)
    assert torch.allclose(attended, expected, atol=1e-6)


def test_half_precision_is_computed_in_full():
    torch.manual_seed(0)
    prompts = layer_of(1)
    prompts.keys, prompts.values = prompts.keys.bfloat16(), prompts.values.bfloat16()
    layer, _ = grown([0] * 4, prompts)
    query = torch.randn(4, HEADS, 1, WIDTH).bfloat16()
    attended = scaled_dot_product_attention(query, layer.keys, layer.values)
    exact = scaled_dot_product_attention(query.double(), layer.keys.whole().double(), layer.values.whole().double())
    assert attended.dtype == torch.bfloat16
    assert torch.equal(attended, exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scaled_dot_product_attention(query, layer.keys, layer.values), attended)


def test_the_prompt_is_kept_once_and_what_reads_it_otherwise_gets_all_of_it():
    torch.manual_seed(0)
    source = layer_of(1)
    keys = source.keys
    layer, new = grown([0] * 3, source)
    shared = layer.keys
    assert isinstance(shared, SharedKV)
    assert shared.prompt.data_ptr() == keys.data_ptr()
    whole = torch.cat([keys.expand(3, -1, -1, -1), new], dim=2)
    assert torch.equal(shared.transpose(2, 3), whole.transpose(2, 3))
    assert type(shared + 0) is Tensor
    # Results that are no tensor, or several.
    assert shared.tolist() == whole.tolist()
    assert torch.equal(shared, whole)
    assert all(torch.equal(a, b) for a, b in zip(shared.unbind(0), whole.unbind(0), strict=True))
    assert (shared.shape, layer.get_seq_length()) == (whole.shape, LENGTH + 1)


def test_prompts_without_rows_are_let_go():
    index = GroupIndex([0, 0, 1, 2], CPU)
    layer = SharedLayer(layer_of(3), index)
    layer.update(torch.randn(4, HEADS, 1, WIDTH), torch.randn(4, HEADS, 1, WIDTH))
    before = layer.keys.whole()[[0, 3]]
    index.regroup([0, 2])
    layer.select(RowSelection([0, 3], CPU))
    assert len(layer.keys.prompt) == 2
    assert torch.equal(layer.keys.whole(), before)


@pytest.mark.parametrize("bad", [{"dropout_p": 0.1}, {"is_causal": True}])
def test_what_decoding_never_asks_for_is_not_answered_wrongly(bad):
    layer, _ = grown([0, 0])
    with pytest.raises(AssertionError):
        scaled_dot_product_attention(torch.randn(2, HEADS, 1, WIDTH), layer.keys, layer.values, **bad)
