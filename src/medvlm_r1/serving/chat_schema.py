"""What `/v1/chat/completions` takes, as OpenAI documents it; the parts of it that mean something here.

OpenAI has no word for the view of a medical image, nor for options: those fields are ours, and say so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medvlm_r1.dialogue.prompt import ALL_TEMPLATES

# Fields of OpenAI's and of other servers that change what is written and are not offered, with the values that ask for
# nothing. Other unknown fields are let be, as clients of many servers expect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "modalities": (None, ["text"]),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_k": (None, 0, -1),
}

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Option = Annotated[str, Field(min_length=1, max_length=2000)]
# Larger than any file has frames or slices.
Place = Annotated[int, Field(ge=0, lt=2**31)]
Plane = Literal["axial", "coronal", "sagittal"]


class ImageUrl(BaseModel):
    """An image in the request itself."""

    url: str = Field(description="A data URI in base64: data:image/png;base64,... Addresses are never fetched.")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Without meaning here.")
    frame: Place | None = Field(None, description="Not OpenAI's: of a file with several, from 0.")
    plane: Plane | None = Field(None, description="Not OpenAI's: NIfTI.")
    slice: Place | None = Field(None, description="Not OpenAI's: NIfTI, across the plane, from 0.")
    window: str | None = Field(
        None,
        max_length=64,
        description="Not OpenAI's: grey DICOM and NIfTI: brain, lung, soft-tissue, bone, percentile, full, stored, or "
        "CENTRE/WIDTH.",
    )


class TextPart(BaseModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1, max_length=64)]


class StreamOptions(BaseModel):
    """How to stream."""

    include_usage: bool | None = False


class ChatRequest(BaseModel):
    """A conversation to go on with."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, description="At most the server's own limit, to which more is cut.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Goes before max_tokens.")
    temperature: float | None = Field(1.0, ge=0, le=2, allow_inf_nan=False, description="0 is greedy.")
    top_p: float | None = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    n: int | None = Field(1, ge=1, description="The prompt is read once for all.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1, description="Completion i draws from seed + i.")
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    options: list[Option] | None = Field(
        None,
        min_length=2,
        max_length=10,
        description="Not OpenAI's: the options of the question, without letters. Each choice then has an `answer`: the "
        "letter, the probability of each option, the reasoning.",
    )
    template: str | None = Field(
        None,
        description="Not OpenAI's: the one turn is a question, to be put as the Python API puts it, by this template.",
        json_schema_extra={"enum": [*ALL_TEMPLATES, None]},
    )

    @property
    def read(self) -> bool:
        """Whether an answer is to be read from the text."""
        return self.options is not None or self.template is not None

    @model_validator(mode="after")
    def _offered(self) -> ChatRequest:
        for name, value in (self.model_extra or {}).items():
            if name in NEUTRAL and value not in NEUTRAL[name]:
                raise ValueError(f"{name} is not offered here; leave it out")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer other than success."""

    error: ErrorDetail
