"""Images put into a data folder.

A picture file is copied byte for byte and opened once. A DICOM or NIfTI file is made into a PNG by the image loader,
so that no patient tag enters a data folder.
"""

import shutil
from pathlib import Path
from typing import Any

from medvlm_r1.data.finder import Placed
from medvlm_r1.data.images import load_picture
from medvlm_r1.data.images.kind import HEAD, kind_of
from medvlm_r1.data.paths import inside
from medvlm_r1.errors import UserError


class ImageWriter:
    """Puts images into a data folder, each once.

    Attributes:
        notes: Name in the data folder to what the loader did, for the images that were made into PNGs.
    """

    def __init__(self, out: Path) -> None:
        self.notes: dict[str, dict[str, Any]] = {}
        self._out = out
        self._done: set[str] = set()

    def write(self, image: Placed) -> None:
        """Copy or convert one image.

        Raises:
            UserError: It cannot be read or shown, the place leads out of the data folder, or the disk refuses.
        """
        if image.source is None or image.name in self._done:
            return
        target = inside(self._out, image.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image.source, bytes):
                target.write_bytes(image.source)
            else:
                self._take(image, image.source, target)
        except OSError as error:
            shown = "image" if isinstance(image.source, bytes) else image.source
            raise UserError(f"{shown}: cannot be copied to {target} ({error.strerror or error})") from error
        self._done.add(image.name)

    def _take(self, image: Placed, source: str, target: Path) -> None:
        if not image.convert:
            with open(source, "rb") as stream:
                # A DICOM file may be called x.png; its tags must not come along.
                if not kind_of(Path(source), stream.read(HEAD)):
                    stream.seek(0)
                    _copy(stream, source, target)
                    return
        picture = load_picture(source, image.view)
        picture.image.save(target, "PNG")
        self.notes[image.name] = picture.note.as_record()


def _copy(stream: Any, source: str, target: Path) -> None:
    # The source may be the data folder itself: then the image is in its place already.
    if target.exists() and target.samefile(source):
        return
    with target.open("wb") as copy:
        shutil.copyfileobj(stream, copy, 2**20)
