"""Readers of public formats, by the name the command line uses."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from medvlm_r1.data.huatuo import import_huatuo
from medvlm_r1.data.importing import ImportReport
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.errors import UsageError


class Reader(Protocol):
    """Makes a data folder `out` from a `source` file and a folder of `images`, of all or of chosen modalities."""

    def __call__(
        self, source: str | Path, /, *, images: str | Path, out: str | Path, modality: str | Iterable[str] | None = None
    ) -> ImportReport: ...


READERS: dict[str, Reader] = {"huatuo": import_huatuo}


def find_reader(name: str) -> Reader:
    """The reader of a format.

    Raises:
        UsageError: No reader has that name; the message names the nearest.
    """
    if name not in READERS:
        raise UsageError(f"unknown data format {name!r}; {did_you_mean(name, READERS)}")
    return READERS[name]
