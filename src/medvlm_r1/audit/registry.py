"""Registry of the model probes, of the reviewer's questions that they answer, and of the words for their verdicts."""

from collections.abc import Sequence

from medvlm_r1.audit.measures import TOO_FEW
from medvlm_r1.audit.probe import Level, Probe
from medvlm_r1.audit.probes.confidence import ConfidenceProbe
from medvlm_r1.audit.probes.image import ImageProbe
from medvlm_r1.audit.probes.options import OptionsProbe
from medvlm_r1.audit.probes.pointing import PointingProbe
from medvlm_r1.audit.probes.prevalence import PrevalenceProbe
from medvlm_r1.audit.probes.reasoning import ReasoningProbe
from medvlm_r1.audit.probes.subgroups import SubgroupsProbe
from medvlm_r1.audit.probes.truth import TruthProbe
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError

_KINDS = (
    *(ImageProbe, OptionsProbe, ReasoningProbe, TruthProbe, ConfidenceProbe, PointingProbe),
    *(SubgroupsProbe, PrevalenceProbe),
)
PROBES: dict[str, Probe] = {kind.name: kind() for kind in _KINDS}
"""The probes by name, in the order of the report."""

QUESTIONS = {
    "looks": ("image", "Does it look at the image?"),
    "order": ("options", "Is the answer the same in every order of the options?"),
    "reasoning": ("reasoning", "Does the reasoning carry the answer?"),
    "truth": ("truth", "Are its claims true?"),
    "defers": ("confidence", "Does it know when to defer?"),
    "points": ("pointing", "Do its boxes show its evidence?"),
}
"""For each verdict, the name of its probe and the reviewer's question that it answers. "pass" means yes."""

FURTHER = {
    "subgroups": "Is it as accurate in every subgroup?",
    "prevalence": "Does it recognize presence and absence alike?",
}
"""The questions that the other probes answer, by name of the probe."""

_WORDS: dict[Level, str] = {"pass": "Yes", "warn": "Partly", "fail": "No", "not run": "Too little data"}


def answer_word(verdict: Level, sentence: str) -> str:
    """Answer to a verdict's question in a word or two, for a page or a terminal.

    Args:
        verdict: The verdict.
        sentence: Its sentence. It distinguishes too little data from other reasons for "not run".
    """
    return _WORDS[verdict] if verdict != "not run" or TOO_FEW in sentence else "Not measured"


def choose_probes(names: Sequence[str] = ()) -> dict[str, Probe]:
    """Select probes by name, in the order of the report. If no name is given, select all probes.

    Raises:
        UsageError: A name is unknown; the message suggests the most similar known name.
    """
    for name in names:
        if name not in PROBES:
            raise UsageError(f"unknown probe {name!r}; {did_you_mean(name, PROBES)}")
    return {name: probe for name, probe in PROBES.items() if name in names or not names}
