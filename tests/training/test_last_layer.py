"""The last feed-forward runs on the tokens that are read; what is read stays what it was."""

from __future__ import annotations

import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_vlms import TINY
from torch import Tensor, nn

from medvlm_r1.models.families import FAMILIES
from medvlm_r1.models.sharing.skip_unused_mlp import feeding_forward

READ = torch.tensor([4, 2, 4])


def states_of(model: Any) -> Tensor:
    ids = torch.arange(10, 16)[None]
    states: Tensor = model.get_decoder()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return states


def tokens_fed(model: Any) -> list[int]:
    seen: list[int] = []
    module = model.get_decoder().layers[-1].mlp.down_proj
    module.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    return seen


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_two_of_six_tokens_are_fed_forward_and_stay_the_same(family: str) -> None:
    model = TINY[family].model("sdpa")
    seen, want = tokens_fed(model), states_of(model)
    with warnings.catch_warnings():
        # A user would read it at every generation.
        warnings.simplefilter("error")
        with feeding_forward(model, READ):
            got = states_of(model)
    assert seen == [6, 2]
    torch.testing.assert_close(got[:, [2, 4]], want[:, [2, 4]])
    assert not torch.allclose(got[:, 0], want[:, 0])
    # Afterwards the layer is what it was.
    assert torch.equal(states_of(model), want)


def test_nothing_read_is_nothing_fed() -> None:
    model = TINY["qwen2_vl"].model("sdpa")
    with feeding_forward(model, READ[:0]):
        states_of(model).sum().backward()
    assert not model.get_decoder().layers[-1].mlp.up_proj.weight.grad.any()


def test_layers_run_again_by_checkpointing_and_other_feed_forwards_are_left_alone() -> None:
    model = TINY["qwen2_vl"].model("sdpa").train()
    seen = tokens_fed(model)
    model.gradient_checkpointing_enable()
    with feeding_forward(model, READ):
        states_of(model)
    with torch.no_grad(), feeding_forward(model, READ):
        states_of(model)
    model.gradient_checkpointing_disable()
    model.get_decoder().layers[-1].mlp.router = nn.Linear(2, 2)
    with feeding_forward(model, READ):
        states_of(model)
    assert seen == [6, 2, 6]


def test_a_decoder_of_another_make_is_left_alone() -> None:
    for decoder in (nn.Identity(), SimpleNamespace(layers=nn.ModuleList([nn.Identity()])), SimpleNamespace(layers=[])):
        with feeding_forward(SimpleNamespace(get_decoder=lambda made=decoder: made), READ):
            assert "forward" not in vars(decoder)


def test_another_thread_gets_every_token() -> None:
    model = TINY["qwen2_vl"].model("sdpa")
    want, found = states_of(model), []
    with feeding_forward(model, READ):
        thread = threading.Thread(target=lambda: found.append(states_of(model)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], want)
