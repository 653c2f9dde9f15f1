"""A file held in memory, for what must not be written to disk."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Path = Path
else:
    # Up to Python 3.11 only the classes for one system can be derived from.
    _Path = type(Path())


class _Stream(io.BytesIO):
    """Bytes with a name, which readers ask a file for."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class Held(_Path):
    """Bytes in the place of a path: the readers open it, ask its size and name it in messages, and do no more."""

    _data: bytes

    @classmethod
    def of(cls, data: bytes, name: str) -> Held:
        """Hold bytes.

        Args:
            data: Content of the file.
            name: What messages call it. Its suffix may tell the kind where the content does not.
        """
        held = cls(name)
        held._data = data
        return held

    def open(self, *args: Any, **kwargs: Any) -> Any:
        """A stream over the bytes, whatever the mode."""
        return _Stream(self._data, str(self))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """The size, as of a regular file."""
        return os.stat_result((stat.S_IFREG, 0, 0, 0, 0, 0, len(self._data), 0, 0, 0))

    def is_file(self, *args: Any, **kwargs: Any) -> bool:
        """True."""
        return True
