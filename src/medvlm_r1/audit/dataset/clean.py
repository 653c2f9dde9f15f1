"""Clean set: a copy of a data set without the questions that blind baselines solve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.audit.dataset.audit import DataAudit, audit_data
from medvlm_r1.audit.dataset.baselines import BASELINES, CHANCE
from medvlm_r1.console import fill
from medvlm_r1.data.folder import read_info, write_subsets
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.evaluation.score import order_modalities

REMOVABLE = tuple(name for name in BASELINES if name != CHANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSet:
    """A clean set that was written to a folder.

    Attributes:
        folder: The data folder of the clean set.
        baselines: Names of the baselines whose solved questions were removed.
        kept: Number of questions written, for each modality of the source.
        removed: Number of questions removed, for each modality of the source.
        missing: Number of written questions with a missing image.
        audit: The audit of the written questions; None if only open questions remain.
    """

    folder: Path
    baselines: tuple[str, ...]
    kept: dict[str, int]
    removed: dict[str, int]
    missing: int
    audit: DataAudit | None

    def record(self) -> dict[str, Any]:
        """Convert the clean set to JSON values."""
        return {
            "folder": str(self.folder),
            "without": list(self.baselines),
            "kept": self.kept,
            "removed": self.removed,
            "missing": self.missing,
            "baselines": self.audit.record()["baselines"] if self.audit else {},
        }


def write_clean(
    source: Path,
    out: Path,
    samples: Sequence[Sample],
    audit: DataAudit,
    *,
    baselines: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> CleanSet:
    """Write a copy of the data set without the questions that blind baselines solve. Open questions are kept.

    Args:
        source: The audited data folder.
        out: Folder to write, which must be new or empty.
        samples: All samples of `source`.
        audit: The audit of `samples`.
        baselines: Names of the baselines whose solved questions to remove. The default is all that were run except
            chance.
        progress: Called with the number of images copied and the number of images in total.

    Raises:
        UsageError: The name of a baseline is unknown, or the fitted option prior is named but was not run.
        UserError: No question would remain, `out` is not empty, an image path leads out of the folder, or writing
            fails.
    """
    chosen = tuple(dict.fromkeys(baselines)) or tuple(name for name in audit.baselines if name != CHANCE)
    for name in chosen:
        if name not in REMOVABLE:
            raise UsageError(f"--clean-of {name!r} is not a blind baseline; {did_you_mean(name, REMOVABLE)}")
        if name not in audit.baselines:
            raise UsageError(f"--clean-of {name}: it was not run; name what to fit it on with --fit-on")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: there is something already; name a new or empty folder for the clean set")
    solved = {name for entry in audit.modalities.values() for baseline in chosen for name in entry.solved(baseline)}
    rest = [sample for sample in samples if sample.id not in solved]
    if not rest:
        raise UserError(
            f"{source}: the blind baselines ({', '.join(chosen)}) solve all {len(samples)} questions; nothing remains "
            f"and {out} was not written. Leave out those of fewer baselines with --clean-of"
        )
    names = order_modalities(sample.modality for sample in samples)
    clean = {"of": source.resolve().name, "without_solved_by": list(chosen), "removed": len(solved)}
    rest = write_subsets(source, {out: (rest, read_info(source) | {"clean": clean})}, progress)[out]
    return CleanSet(
        folder=out,
        baselines=chosen,
        kept={name: sum(s.modality == name for s in rest) for name in names},
        removed={name: sum(s.modality == name for s in samples if s.id in solved) for name in names},
        missing=sum(sample.missing for sample in rest),
        audit=audit_data(rest, audit.prior_source) if any(sample.options for sample in rest) else None,
    )


def report_lines(audit: DataAudit, clean: CleanSet | None, left_out: Sequence[str]) -> list[str]:
    """A data audit, its clean set and messages about rows that were left out, as lines of text."""
    return fill(Path(__file__).with_name("report.txt"), audit=audit, clean=clean, left_out=left_out)
