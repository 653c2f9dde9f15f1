"""Linear layers by oneDNN: the same results, and everything as it was afterwards."""

import pytest
import torch
from torch import nn

from medvlm_r1.models import onednn_linear as linears
from medvlm_r1.models.onednn_linear import fast_inference


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 7, bias=False))


@pytest.mark.parametrize("shape", [(64,), (1, 64), (5, 64), (2, 3, 64), (0, 64)])
@pytest.mark.parametrize("room", [0, 64 * 32 * 4, 1 << 30])
def test_the_products_are_the_same(monkeypatch, shape, room):
    monkeypatch.setattr(linears, "_MOST_BYTES", room)
    layers, rows = model(), torch.randn(shape)
    with torch.no_grad():
        expected = layers(rows)
        with fast_inference(layers):
            assert "forward" in vars(layers[0])
            assert torch.allclose(layers(rows), expected, atol=1e-6)
            assert layers(rows).shape == expected.shape
            apart = torch.stack([rows, rows], dim=-1)[..., 0]  # not contiguous
            assert torch.allclose(layers(apart), expected, atol=1e-6)


def test_layers_are_as_they_were_afterwards_whatever_happened():
    layers = model()
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError), fast_inference(layers):
            raise ZeroDivisionError
        with fast_inference(layers), fast_inference(layers):
            pass
        assert not any("forward" in vars(layer) for layer in layers)
        # New weights are read the next time.
        layers[0].weight.mul_(2)
        rows = torch.randn(3, 64)
        with fast_inference(layers):
            assert torch.allclose(layers(rows), nn.Sequential(*layers)(rows), atol=1e-6)


def test_one_thread_at_a_time_replaces_layers(monkeypatch):
    locked = []
    takes = linears._takes
    monkeypatch.setattr(linears, "_takes", lambda module: locked.append(linears._LOCK.locked()) or takes(module))
    with torch.no_grad(), fast_inference(model()):
        assert not linears._LOCK.locked()
    assert locked == [True] * 4


def test_a_tied_weight_is_laid_out_once(monkeypatch):
    one = nn.Linear(8, 8, bias=False)
    other = nn.Linear(8, 8, bias=False)
    other.weight = one.weight
    monkeypatch.setattr(linears, "_MOST_BYTES", one.weight.nbytes)
    rows = torch.randn(2, 8)
    with torch.no_grad(), fast_inference(nn.Sequential(one, other)):
        assert torch.allclose(other(rows), rows @ one.weight.T, atol=1e-6)


def test_training_other_types_and_replaced_layers_are_left_alone():
    class Other(nn.Linear):
        pass

    layers = nn.Sequential(Other(4, 4), nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).to("meta"))
    with torch.no_grad(), fast_inference(layers):
        assert not any("forward" in vars(layer) for layer in layers)
    plain = model()
    with fast_inference(plain):
        assert not any("forward" in vars(layer) for layer in plain)
    with torch.no_grad(), fast_inference(plain), torch.enable_grad():
        assert plain(torch.randn(2, 64)).grad_fn is not None
    with torch.no_grad(), fast_inference(plain):
        assert plain.double()(torch.randn(2, 64).double()).dtype == torch.float64


def test_autocast_gives_the_type_it_gives_elsewhere():
    plain, rows = model(), torch.randn(2, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = plain(rows)
        with fast_inference(plain):
            got = plain(rows)
    assert expected.dtype == got.dtype == torch.bfloat16
    assert torch.equal(got, expected)
