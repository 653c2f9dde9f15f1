"""Readers of all supported formats, by their name on the command line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from medvlm_r1.data.importing.importer import Importer
from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.readers.own import OWN_READERS
from medvlm_r1.data.readers.public import PUBLIC_READERS
from medvlm_r1.errors import UsageError

READERS: dict[str, Importer] = {reader.name: reader for reader in PUBLIC_READERS} | OWN_READERS


def find_reader(name: str) -> Importer:
    """Find the reader of a format.

    Raises:
        UsageError: No reader has that name. The message suggests the most similar name.
    """
    if name not in READERS:
        raise UsageError(f"unknown data format {name!r}; {did_you_mean(name, READERS)}")
    return READERS[name]


@contextmanager
def open_folder(name: str) -> Iterator[tuple[str, list[str]]]:
    """Open a data folder, or read the questions of a published source into a temporary data folder without images.

    Args:
        name: A data folder, or `FORMAT:SOURCE` with a format of `READERS`, such as `med-r1:Splits/modality/test`.

    Yields:
        The path of the folder, and a list of messages. If rows of the source were left out, one message gives their
        number. The temporary folder has the name of the source.

    Raises:
        UserError: As for `Importer`.
    """
    format, _, source = name.partition(":")
    if format not in READERS or not source:
        yield name, []
        return
    with TemporaryDirectory() as empty, TemporaryDirectory() as parent:
        folder = Path(parent) / Path(source).resolve().name
        report = READERS[format](source, out=folder, images=empty, skip_bad=True)
        first = report.reasons[:1]
        yield str(folder), [f"Rows of {source} left out: {report.bad_rows}. The first: {reason}" for reason in first]
