"""A cache whose rows are written in place, not copied at every token."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

# Tokens by which the cache of a row grows: one copy now and then, in place of one per token.
_GROWTH = 128


class InPlaceLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values (rows, heads, length, width), written in place into room kept for more tokens."""

    def __init__(self, prompts: DynamicLayer, prompt_of_row: torch.Tensor, most_rows: int | None = None) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = prompts.keys.dtype, prompts.keys.device, True
        self._rows, self._length = len(prompt_of_row), prompts.keys.shape[-2]
        most = max(self._rows, most_rows or 0)
        self._room = [self._grown(states[prompt_of_row], most) for states in (prompts.keys, prompts.values)]
        self._show()

    def _grown(self, states: torch.Tensor, most_rows: int) -> torch.Tensor:
        _, heads, length, width = states.shape
        room = states.new_empty((most_rows, heads, length + _GROWTH, width))
        room[: self._rows, :, :length] = states[: self._rows]
        return room

    def _show(self) -> None:
        self.keys, self.values = (room[: self._rows, :, : self._length] for room in self._room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of new tokens behind the last; all of them are given back."""
        end = self._length + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._room = [self._grown(room, len(room)) for room in self._room]
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[: self._rows, :, self._length : end] = states
        self._length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order; one that is named twice is copied, up to the number there is room for."""
        self._rows = len(indices)
        moved = (indices != torch.arange(self._rows, device=indices.device)).nonzero().squeeze(1)
        for room in self._room:
            room[moved, :, : self._length] = room[indices[moved], :, : self._length]
        self._show()
