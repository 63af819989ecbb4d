"""What rows and scales share: the base of all configuration, its kinds of values, and the constants of the method.

Everything is frozen, validated and comparable. A default means "as before" for every result that exists already, so a
default is never edited: to change the baseline, edit its row in the study.
"""

from __future__ import annotations

import json
import re
import typing
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

PATCH = 16  # side of a token's patch at every scale, in pixels of the full image (paper, Sec. 4.2)
PATCH_DIM = 3 * PATCH * PATCH  # D = 768
NUM_TIMES = 1000  # time steps of the diffusion process (DiT)


def matching(pattern: str, expected: str) -> AfterValidator:
    """Accepts texts that match a pattern, which a message calls `expected`."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("text", "should be {expected}", {"expected": expected})
        return text

    return AfterValidator(check)


Positive = Annotated[int, Field(ge=1)]
Architecture = Literal["vgg", "resnet"]  # of the small classifiers
SizeName = Literal["B", "half-L", "L"]  # of the encoders in the paper's Sec. 5; most rows have the middle one
Fraction = Annotated[float, Field(ge=0, le=1)]


def _is_number(annotation: Any) -> bool:
    """Whether a value of a type is a number, or holds some."""
    return annotation in (int, float) or any(map(_is_number, typing.get_args(annotation)))


class Config(BaseModel):
    """A piece of configuration: immutable, hashable, and closed to words it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_not_a_number(cls, values: Any) -> Any:
        """Refuses `true` and `false` for a number: Python would take them for 1 and 0."""
        for name, field in cls.model_fields.items():
            value = values.get(field.alias or name) if isinstance(values, dict) else None
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
            if any(isinstance(part, bool) for part in inner) and _is_number(field.annotation):
                raise ValueError(f"{field.alias or name}: found {json.dumps(value)}, should be a number")
        return values

    def sparse(self) -> dict[str, Any]:
        """The plain values of this part that differ from the defaults."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def to_json(self) -> str:
        """The canonical text of this part: only what differs from the defaults, keys sorted."""
        return json.dumps(self.sparse(), sort_keys=True, separators=(",", ":"))


class Width(Config):
    """The width of a transformer, which its heads divide."""

    width: Annotated[int, Field(ge=8, multiple_of=4)]
    heads: Positive

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self


class Size(Width):
    """The size of the Diffusion Transformer: half of its blocks are the encoder, half the decoder."""

    encoder_blocks: Positive
    decoder_blocks: Positive
    conditioning: Annotated[float, Field(gt=0, le=1)] = 0.25  # width of the time embedding / width (paper, App. A)


class EncoderSize(Width):
    """The size of a network up to its encoder's last block."""

    blocks: Positive


class ExternalFile(Config):
    """A file of published weights or statistics: where it lies, and its SHA-256, without which it is not read."""

    path: str
    sha256: Annotated[str, matching("[0-9a-f]{64}", "the 64 digits that sha256sum prints")]
