"""Which items of a model's audit a report shows: those behind the findings of its probes, each kind in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from medvlm_r1.audit.variant import REAL
from medvlm_r1.report.audit_model_view import AuditView, Pictures

WRONG = "wrong as the question stands"


def kinds_of(view: AuditView, pictures: Pictures) -> dict[str, list[str]]:
    """Ids of items by what they show, as the probes name it, and those that are wrong."""
    found: dict[str, list[str]] = {}
    for probe in view.probes.values():
        for kind, ids in probe.items.items():
            known = found.setdefault(kind, [])
            known += [name for name in ids if name in view.items and name not in known]
    found[WRONG] = [
        name
        for name, item in view.items.items()
        if (sample := pictures.sample(name)) and REAL in item.answers and item.answers[REAL].option is not None
        if item.answers[REAL].option != sample.answer
    ]
    return {kind: ids for kind, ids in found.items() if ids}


def choose(kinds: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """One item of every kind, the rarest kind first, then a second of every kind, until there are enough.

    Within a kind the order is that of a hash of the ids.
    """
    ordered = [
        sorted(ids, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())
        for ids in sorted(kinds.values(), key=len)
    ]
    chosen: dict[str, None] = {}
    for turn in range(max((len(ids) for ids in ordered), default=0)):
        for ids in ordered:
            if turn < len(ids) and len(chosen) < count:
                chosen.setdefault(ids[turn])
    return list(chosen)
