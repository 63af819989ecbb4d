"""The measures of a representation: what the probe computes of an encoder, and how a table shows it; no torch.

The implementation of a measure is the module of the same name in `ldae.measures`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from ldae.study.checking import word


@dataclass(frozen=True)
class MeasureTraits:
    """One number of an encoder."""

    title: str  # the heading of its column
    about: str  # what the number is, in a sentence or two below a table
    needs: Literal["features", "tokens"] = "features"  # per image: the pooled features (F,), or the tokens (T, F) too
    unit: Literal["%", ""] = "%"  # `%` for an accuracy, which is stored as a share of images
    paper: Literal["probe"] | None = None  # the key of a row's `paper` with the published number of the same measure


MEASURES = {
    "linear": MeasureTraits(
        title="accuracy",
        about="Accuracy: of a linear classifier on the mean of the tokens, trained as MAE's linear probe.",
        paper="probe",
    ),
    "knn": MeasureTraits(
        title="k-NN",
        about="k-NN: a vote of the nearest training images by the cosine of their features, with nothing trained; "
        "where it is far below the linear probe, the features separate the classes by a small part of their variance.",
    ),
    "attentive": MeasureTraits(
        title="attentive",
        about="Attentive: of a classifier that pools the tokens with several learned queries before its linear layer "
        "(efficient probing, arXiv:2506.10178); where it is far above the linear probe, single tokens know what their "
        "mean does not.",
        needs="tokens",
    ),
}
DEFAULT_MEASURES = ("linear", "knn")  # the measures of every probe


MeasureName = Annotated[str, word(MEASURES)]


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Measures without repetition, in the order of the registry."""
    chosen = set(names)
    return tuple(name for name in MEASURES if name in chosen)
