"""Load a processor without its model, and check which image sizes it accepts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_r1.data.folder import SAMPLES
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError, extra_of

Size = tuple[int, int]
"""Width and height in pixels."""
_MAX_ROWS = 20


def load_processor(folder: Path) -> Any:
    """Load the processor of a model folder: tokenizer, image processor and chat template.

    Raises:
        UserError: The files are damaged, there is no image processor, or a required package is not installed.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ImportError as error:
        extra = next(filter(None, map(extra_of, re.findall(r"\w+", str(error)))), None)
        hint = f" Run `pip install 'medvlm-r1[{extra}]'`." if extra else ""
        raise UserError(f"{folder}: its processor needs a package that is not installed: {error}{hint}") from error
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"{folder}: its processor cannot be loaded: {error}") from error
    if not hasattr(processor, "image_processor"):
        raise UserError(
            f"{folder} has no image processor (preprocessor_config.json); copy the base model's processor files."
        )
    return processor


@dataclass(slots=True, kw_only=True)
class ImageFit:
    """Callable that checks whether a model's image processor accepts an image size. Results are cached by size.

    Attributes:
        model: Name of the model, for messages.
        processor: The model's image processor.
    """

    model: str
    processor: Any
    _known: dict[Size, str | None] = field(default_factory=dict)

    def __call__(self, size: Size) -> str | None:
        """The reason why an image of this size cannot be processed; None if it can."""
        if size not in self._known:
            self._known[size] = self._try(size)
        return self._known[size]

    def _try(self, size: Size) -> str | None:
        try:
            if hasattr(self.processor, "get_number_of_image_patches"):
                # This applies the processor's size rule without processing pixels.
                self.processor.get_number_of_image_patches(size[1], size[0], {})
            else:
                self.processor(images=[Image.new("RGB", size)], return_tensors="pt")
        except (ValueError, TypeError, ZeroDivisionError, RuntimeError, OverflowError) as error:
            return str(error)
        return None

    def unfit(self, rows: Iterable[tuple[int, Sample]], sizes: Mapping[str, Size | None]) -> dict[str, str]:
        """Find the rows with an image that the model does not accept.

        Args:
            rows: Samples with their row numbers in the file.
            sizes: Image sizes by image name; None for an unreadable image, which is skipped.

        Returns:
            Messages by sample id. Each gives the row, the image, its size and the reason.
        """
        messages: dict[str, str] = {}
        for number, sample in rows:
            for name in sample.images:
                size = sizes.get(name)
                reason = self(size) if size else None
                if size and reason:
                    line = f"row {number} (id {sample.id!r}), {name}, {size[0]} x {size[1]} pixels: {reason}"
                    messages.setdefault(sample.id, line)
        return messages

    def message(self, folder: str | Path, unfit: Mapping[str, str]) -> str:
        """Combine the messages of `unfit` into one message, without advice."""
        lines = [*unfit.values()][:_MAX_ROWS]
        more = f"; and {len(unfit) - _MAX_ROWS} more" if len(unfit) > _MAX_ROWS else ""
        rows = f"{len(unfit)} row{'' if len(unfit) == 1 else 's'}"
        return (
            f"{Path(folder) / SAMPLES}: the image processor of {self.model} cannot take images of {rows}: "
            f"{'; '.join(lines)}{more}"
        )
