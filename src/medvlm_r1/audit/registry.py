"""Registry of the model probes, and of the reviewer's questions that their verdicts answer."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm_r1.audit.probe import Probe
from medvlm_r1.audit.probes.confidence import ConfidenceProbe
from medvlm_r1.audit.probes.image import ImageProbe
from medvlm_r1.audit.probes.options import OptionsProbe
from medvlm_r1.audit.probes.pointing import PointingProbe
from medvlm_r1.audit.probes.reasoning import ReasoningProbe
from medvlm_r1.audit.probes.subgroups import SubgroupsProbe
from medvlm_r1.audit.probes.truth import TruthProbe
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError

_KINDS = (ImageProbe, OptionsProbe, ReasoningProbe, TruthProbe, ConfidenceProbe, PointingProbe, SubgroupsProbe)
PROBES: dict[str, Probe] = {kind.name: kind() for kind in _KINDS}
"""The probes by name, in the order of the report."""

QUESTIONS = {
    "looks": ("image", "Does it look at the image?"),
    "order": ("options", "Does the order of the options matter?"),
    "reasoning": ("reasoning", "Does the reasoning carry the answer?"),
    "truth": ("truth", "Are its claims true?"),
    "defers": ("confidence", "Does it know when to defer?"),
    "points": ("pointing", "Do its boxes show its evidence?"),
}
"""For each verdict, the name of its probe and the reviewer's question that it answers."""


def choose_probes(names: Sequence[str] = ()) -> dict[str, Probe]:
    """Select probes by name, in the order of the report. If no name is given, select all probes.

    Raises:
        UsageError: A name is unknown; the message suggests the most similar known name.
    """
    for name in names:
        if name not in PROBES:
            raise UsageError(f"unknown probe {name!r}; {did_you_mean(name, PROBES)}")
    return {name: probe for name, probe in PROBES.items() if name in names or not names}
