"""Clean set: a data set without the items that blind baselines solve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlm_r1.audit.dataset.audit import DataAudit, audit_data
from medvlm_r1.audit.dataset.baselines import BASELINES, CHANCE
from medvlm_r1.data.folder import copy_images, read_info, write_folder
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError

REMOVABLE = tuple(name for name in BASELINES if name != CHANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSet:
    """A written clean set.

    Attributes:
        folder: The data folder.
        baselines: The baselines whose solved items were removed.
        kept: Number of questions written, by modality of the source.
        removed: Number removed, by modality of the source.
        missing: Number of questions written with a missing image.
        audit: The audit of the questions written; None when only open ones remain.
    """

    folder: Path
    baselines: tuple[str, ...]
    kept: dict[str, int]
    removed: dict[str, int]
    missing: int
    audit: DataAudit | None

    def record(self) -> dict[str, Any]:
        """The record as JSON values."""
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
    """Write the data set without the items that blind baselines solve. Open questions stay.

    Args:
        source: The audited data folder.
        out: Folder to write; must not hold anything yet.
        samples: All samples of `source`.
        audit: Their audit.
        baselines: The baselines whose solved items to remove; all but chance by default.
        progress: Called with (images copied, images in all).

    Raises:
        UsageError: An unknown baseline, or the fitted one without a fit.
        UserError: Nothing would remain, `out` is not empty, an image leads out of the folder, or writing fails.
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
    names = sorted({name for sample in rest for name in sample.images})
    absent = copy_images(source, [(name, out) for name in names], progress)
    rest = [replace(sample, missing=sample.unnamed_image or not absent.isdisjoint(sample.images)) for sample in rest]
    info = {key: value for key, value in read_info(source).items() if key != "counts"}
    info["clean"] = {"of": source.resolve().name, "without_solved_by": list(chosen), "removed": len(solved)}
    write_folder(out, rest, info=info)
    return CleanSet(
        folder=out,
        baselines=chosen,
        kept={name: sum(s.modality == name for s in rest) for name in audit.modalities},
        removed={name: sum(s.modality == name for s in samples if s.id in solved) for name in audit.modalities},
        missing=sum(sample.missing for sample in rest),
        audit=audit_data(rest, audit.prior_source) if any(sample.options for sample in rest) else None,
    )
