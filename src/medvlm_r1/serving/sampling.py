"""The next token of every row, each by its own request's settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medvlm_r1.serving.job import Row, Token


def next_tokens(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """Choose.

    Args:
        logits: Float32 (rows, vocabulary); forbidden tokens at minus infinity.
        rows: Those of the logits. A row that samples draws from its own generator, so that its neighbours do not
            change what it writes.
    """
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for place, row in enumerate(rows):
        settings = row.job.settings
        if settings.samples:
            shares = torch.softmax(logits[place].cpu().double() / settings.temperature, dim=-1)
            if row.job.top_p < 1:
                shares = _nucleus(shares, row.job.top_p)
            chosen[place] = int(torch.multinomial(shares, 1, generator=row.generator))
    return chosen


def scored(logits: torch.Tensor, rows: Sequence[Row], chosen: Sequence[int]) -> list[Token | None]:
    """The chosen tokens' log-probabilities at temperature 1, for the rows whose request wants them."""
    results: list[Token | None] = [None] * len(rows)
    places = [place for place, row in enumerate(rows) if row.job.top_logprobs is not None]
    if not places:
        return results
    logs = torch.log_softmax(logits[places], dim=-1)
    own = logs.gather(1, torch.tensor([[chosen[place]] for place in places], device=logs.device))
    most = max(rows[place].job.top_logprobs or 0 for place in places)
    values, ids = logs.topk(min(most, logs.shape[1]), dim=-1)
    found = zip(places, own[:, 0].tolist(), ids.tolist(), values.tolist(), strict=True)
    for place, logprob, best_ids, best_values in found:
        best = list(zip(best_ids, best_values, strict=True))[: rows[place].job.top_logprobs]
        # A token that cannot be written has no finite logarithm, and JSON no word for that.
        results[place] = Token(chosen[place], logprob, tuple(pair for pair in best if pair[1] > float("-inf")))
    return results


def _nucleus(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, order = shares.sort(descending=True)
    # The token that reaches the share belongs to the set, so the best one always does.
    ordered[ordered.cumsum(0) - ordered >= top_p] = 0
    return torch.zeros_like(shares).scatter(0, order, ordered)
