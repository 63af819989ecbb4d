"""What the stages that evaluate write into their records, as readers find it; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ldae.runtime.files import read_json, write_json
from ldae.study.checking import first_mistake


class Record(BaseModel):
    """The record of a result; keys that are absent from the file have their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lineage: dict[str, dict[str, Any]]
    inputs: dict[str, str] = {}
    sha256: dict[str, str] = {}
    provenance: dict[str, Any] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks a record.

        Raises a `ValueError` in one line, for a file that is damaged or has another format.
        """
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(cls, values: dict[str, Any], path: Path) -> Self:
        """Checks what was read from a path; raises a `ValueError` as `read` does."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"{path}: {first_mistake(cls, error.errors())}; run its job again") from None

    def write(self, path: Path) -> None:
        """Writes the record with its checksum; values that equal their defaults are left out."""
        write_json(path, self.model_dump(exclude_defaults=True))


class ProbeEstimate(BaseModel):
    """One measure of one encoder, on the validation images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float  # of the 95 % interval over groups of images; the value itself for a number that is not an accuracy
    high: float
    correct: str | None = None  # the array in `correct.npz` with 1 for each image (N,) that was classified correctly
    rate: float | None = None  # the learning rate that was best on the held-out training images
    held_out: float | None = None  # the accuracy there
    rate_at_edge: bool = False  # whether that rate was the smallest or the largest tried


Estimates = dict[str, ProbeEstimate]  # by the measure's name


class ProbeRecord(Record):
    """`probe.json`."""

    row: str
    run: str | None = None  # the row that was trained; None for raw pixels
    seed: int
    training_flops: float | None = None  # None for raw pixels and published weights
    encoders: dict[str, Estimates]  # by weights and block, e.g. "random/-1"


class FinetuneRecord(Record):
    """`finetune.json`, as far as tables need it."""

    model_config = ConfigDict(extra="ignore")

    row: str
    seed: int


class DistanceRecord(Record):
    """`distance.json`."""

    row: str
    seed: int
    distance: str  # its name
    num: int  # samples
    value: float  # at that number
    infinite: float  # extrapolated to infinitely many
    error: float  # the standard error of `infinite`
    judge_accuracy: float | None = None  # of the study's own classifier on validation images


class ReferenceRecord(Record):
    """`reference.json`, beside the mean and covariance of the true images' features."""


class PicturesRecord(Record):
    """`pictures.json`."""

    row: str
    sigma: float  # of the noise where the signal is 1


class TokenizerRecord(Record):
    """`tokenizer.json`."""

    kind: str
    dims: int  # of a latent
    collapsed_dims: int  # dimensions without information
    psnr: dict[int, float]  # of reconstructed validation images in dB, by the number of dimensions kept
    explained: list[float] | None = None  # the share of the variance in the first 1, 2, ... dimensions of a linear fit
    posterior_noise: float | None = None  # of a convolutional tokenizer
    perceptual: str | None = None  # the network of its perceptual loss
