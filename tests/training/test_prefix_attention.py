"""Attention by blocks against a square written by hand, and against SDPA with it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import Operations
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.nn.functional import scaled_dot_product_attention

from medvlm_r1.models.sharing import attention
from medvlm_r1.models.sharing.attention import Layout, PrefixMask, completion_mask, dense_mask

layouts = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), max_size=3).map(tuple)), min_size=1, max_size=3
).map(lambda groups: Layout(tuple(groups)))


@given(layout=layouts)
@settings(max_examples=20, deadline=None, derandomize=True)
def test_attention_by_blocks_is_attention_with_the_square(layout):
    length = sum(layout.sizes())
    q, k, v = torch.randn(3, 1, 2, length, 4, dtype=torch.float64).unbind()
    square = dense_mask(layout, dtype=torch.float64, device=q.device)
    weight = torch.randn(1, 2, length, 4, dtype=torch.float64)

    def with_gradients(mask):
        inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        out = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=0.3)
        return [out.detach(), *torch.autograd.grad(out, inputs, weight)]

    want = with_gradients(square)
    got = with_gradients(PrefixMask(layout, q.device))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_a_gradient_without_memory_of_its_own_is_taken():
    layout = Layout(((3, (2, 1)),))
    q, k, v = (tensor.requires_grad_() for tensor in torch.randn(3, 1, 2, 6, 4).unbind())
    # What a sum sends back is one number seen many times.
    scaled_dot_product_attention(q, k, v, attn_mask=PrefixMask(layout, q.device)).sum().backward()
    square = dense_mask(layout, dtype=q.dtype, device=q.device)
    want = torch.autograd.grad(scaled_dot_product_attention(q, k, v, attn_mask=square).sum(), (q, k, v))
    for tensor, gradient in zip((q, k, v), want, strict=True):
        torch.testing.assert_close(tensor.grad, gradient)


def test_the_square_written_out():
    layout = Layout(((2, (1, 2)), (1, ())))
    want = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 0, 1, 0, 0],
            [1, 1, 0, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    )
    options = {"dtype": torch.float32, "device": torch.device("cpu")}
    assert torch.equal(dense_mask(layout, **options)[0, 0].exp().int(), want.int())
    # A window of two tokens: the second of the second completion no longer sees the prompt.
    want[3, 0] = want[4, 0] = want[4, 1] = want[2, 0] = 0
    assert torch.equal(dense_mask(layout, window=2, **options)[0, 0].exp().int(), want.int())


def test_nothing_but_sdpa_may_read_the_blocks():
    with pytest.raises(RuntimeError, match="only SDPA can"):
        PrefixMask(Layout(((2, (1,)),)), torch.device("cpu")) + torch.zeros(3, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_the_mask_of_a_completion_has_no_values(dtype):
    options = {"dtype": dtype, "device": torch.device("cuda")}
    bias = completion_mask(3, 5, **options)
    assert isinstance(bias, CausalBias)
    assert (bias.variant, bias.seq_len_q, bias.seq_len_kv) == (CausalVariant.LOWER_RIGHT, 3, 8)
    assert bias.device.type == "cpu"
    dense = completion_mask(3, 5, dtype=dtype, device=torch.device("cpu"))
    assert torch.equal(bias._materialize(), dense == 0)
    q, k, v = (torch.randn(1, 2, length, 8) for length in (3, 8, 8))
    masked = [scaled_dot_product_attention(q, k, v, attn_mask=mask) for mask in (bias, dense.float())]
    torch.testing.assert_close(*masked, atol=1e-6, rtol=0)


def test_attention_with_the_masks_of_a_gpu(monkeypatch):
    layout = Layout(((5, (3, 1, 4)), (2, (2,))))
    inputs = [tensor.requires_grad_() for tensor in torch.randn(3, 1, 2, sum(layout.sizes()), 8).unbind()]

    def result():
        out = scaled_dot_product_attention(*inputs, attn_mask=PrefixMask(layout, torch.device("cpu")), scale=0.3)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    want, plain = result(), attention.completion_mask
    made = []

    def on_a_gpu(*args, **_):
        mask = plain(*args, dtype=torch.float32, device=torch.device("cuda"))
        made.append(type(mask))
        return mask

    monkeypatch.setattr(attention, "completion_mask", on_a_gpu)
    for got, expected in zip(result(), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    assert made == [CausalBias] * 3


def test_layers_share_the_mask_of_a_completion():
    mask = PrefixMask(Layout(((5, (3, 3, 1)),)), torch.device("cpu"))
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        for _ in range(4):
            q, k, v = torch.randn(3, 1, 2, 12, 4, requires_grad=True).unbind()
            scaled_dot_product_attention(q, k, v, attn_mask=mask)
    masks = {tensor.data_ptr() for tensor in saved if tensor.shape[-2:] == (3, 8)}
    assert len(masks) == 1
    assert not mask.for_completion(1, 5, q)


def test_autocast_casts_the_packed_row_once():
    q, k, v = torch.randn(3, 1, 2, 16, 4).unbind()
    layout = Layout(((5, (3, 2, 1)), (4, (1,))))
    with Operations() as operations, torch.autocast("cpu", torch.bfloat16):
        out = scaled_dot_product_attention(q, k, v, attn_mask=PrefixMask(layout, q.device))
    assert out.dtype == torch.bfloat16
    assert operations.casts(torch.bfloat16) == 3 * [tuple(q.shape)]
