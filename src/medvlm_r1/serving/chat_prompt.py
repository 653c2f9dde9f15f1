"""From a chat request to what the model is given: images out of their data URIs, limits kept, nothing fetched."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.data.images.picture import NeedsChoice, Picture, TooLarge, View
from medvlm_r1.data.question import control_token
from medvlm_r1.errors import UserError
from medvlm_r1.policy.generate import GenerationInput
from medvlm_r1.serving.api_errors import ApiError, too_large
from medvlm_r1.serving.chat_schema import ChatRequest, ImagePart, ImageUrl
from medvlm_r1.serving.medvlm import Prepared, Question, prepare
from medvlm_r1.serving.pictures import load


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may hold."""

    body: int = 64 * 2**20
    """Bytes of the request."""
    images: int = 8
    """Images."""
    pixels: int = 40_000_000
    """Pixels of all images together."""
    text: int = 200_000
    """Characters of all texts together."""


def read_request(asked: ChatRequest, limits: Limits) -> Prepared:
    """The conversation with its images decoded, as the model is given it.

    Raises:
        ApiError: 400 where an image is not in the request, cannot be read or stands elsewhere than in a user's turn,
            a text holds a control token, or the template cannot be put around the conversation; 413 where a limit is
            passed. The error names the field.
    """
    pictures: list[Picture] = []
    prompt: list[dict[str, Any]] = []
    characters = pixels = 0
    for at, option in enumerate(asked.options or ()):
        _check_text(option, f"options[{at}]")
    for at, message in enumerate(asked.messages):
        role = "system" if message.role == "developer" else message.role
        content: list[dict[str, str]] = []
        for place, part in enumerate(message.content if not isinstance(message.content, str) else [message.content]):
            param = f"messages[{at}].content" + ("" if isinstance(part, str) else f"[{place}]")
            if isinstance(part, ImagePart):
                if role != "user":
                    raise ApiError(400, f"{param}: an image in a turn of the {role}; give it in a user's turn.")
                if len(pictures) == limits.images:
                    raise too_large(f"{param}: more than {limits.images} images in a request.", param)
                picture = _picture(part.image_url, param)
                pixels += picture.image.width * picture.image.height
                if pixels > limits.pixels:
                    most = f"{limits.pixels // 10**6} megapixels together"
                    raise too_large(f"{param}: the images have over {most}; make them smaller.", param)
                pictures.append(picture)
                content.append({"type": "image"})
                continue
            text = part if isinstance(part, str) else part.text
            characters += len(text)
            if characters > limits.text:
                raise too_large(f"{param}: the texts have over {limits.text} characters together.", param)
            _check_text(text, param)
            content.append({"type": "text", "text": text})
        # A user's turn in parts, as training rendered it; the others as text, which every chat template takes.
        whole: Any = content if role == "user" else "".join(part["text"] for part in content)
        prompt.append({"role": role, "content": whole})
    if asked.template is not None:
        return _by_template(asked, asked.template, prompt, pictures)
    item = GenerationInput(prompt=prompt, images=[picture.image for picture in pictures])
    return Prepared(item=item, pictures=tuple(pictures), options=tuple(asked.options or ()))


def _by_template(
    asked: ChatRequest, template: str, prompt: Sequence[dict[str, Any]], pictures: Sequence[Picture]
) -> Prepared:
    alone = len(prompt) == 1 and prompt[0]["role"] == "user"
    texts = [part["text"] for part in prompt[0]["content"] if part["type"] == "text"] if alone else []
    if len(texts) != 1:
        raise ApiError(
            400,
            "template: it is put around one user's turn of images and one text, the question; send such a turn, or "
            "leave template out.",
            param="template",
        )
    question = Question(image=pictures, question=texts[0], options=asked.options or (), template=template)
    try:
        return prepare(question)
    except UserError as error:
        raise ApiError(400, str(error)) from error


def _check_text(text: str, param: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ApiError(400, f"{param}: the text holds half a character (a lone surrogate).", param=param)
    if token := control_token(text):
        raise ApiError(400, f"{param}: the text holds the control token {token!r}; remove it.", param=param)


def _picture(given: ImageUrl, param: str) -> Picture:
    scheme, _, rest = given.url.partition(":")
    if scheme.strip().lower() != "data":
        raise ApiError(
            400,
            f"{param}: the image is not in the request, and no address is fetched here. Send the file itself as a data "
            "URI: data:image/png;base64,...",
            param=param,
            code="invalid_image_url",
        )
    head, comma, encoded = rest.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ApiError(400, f"{param}: the data URI is not data:TYPE;base64,DATA.", param=param, code="invalid_image")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{param}: the data URI is not valid base64.", param=param, code="invalid_image") from None
    try:
        return load(data, View(frame=given.frame, plane=given.plane, slice=given.slice, window=given.window))
    except TooLarge as error:
        raise too_large(f"{param}: {error}", param) from error
    except NeedsChoice as error:
        how = 'Here they are fields of image_url, beside url: "plane", "slice", "frame", "window".'
        raise ApiError(400, f"{param}: {error}. {how}", param=param, code="invalid_image") from error
    except UserError as error:
        raise ApiError(400, f"{param}: {error}", param=param, code="invalid_image") from error
