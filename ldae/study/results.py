"""The records of results, each as its stage writes it; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ldae.runtime.files import read_json, write_json
from ldae.study.checking import first_mistake

PIXELS = "raw pixels"  # the row in the record of a probe without a network


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


class LeftOut(BaseModel):
    """The files and folders among the images that were not used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endings: dict[str, int] = {}  # files of other kinds, by ending
    hidden: int = 0  # or system files and folders
    special: int = 0  # pipes, sockets and devices
    circles: int = 0  # links to a folder around them
    folders: tuple[str, ...] = ()  # beside the two splits


class White(BaseModel):
    """The value that is white in grey images with more than 8 bits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: float
    measured: bool  # or given as `dataset.white`
    largest: float  # value in these images
    images: int  # how many they are


class InBoth(BaseModel):
    """Files with the same content in both splits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int
    pairs: tuple[tuple[str, str], ...]  # the first of them: training image, validation image


class Manifest(Record):
    """`manifest.json` of the prepared images."""

    source: str  # kind of the data set
    size: int  # side of an image for the networks, in pixels
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # of a replication's images, by split and class
    sources: dict[str, Any] | None = None  # the files that were read, see `ldae.data.sources.opening.record_listing`
    pillow: str = ""  # the version that decoded them
    broken: tuple[dict[str, str], ...] = ()  # `path` and `reason` of each image that could not be read
    left_out: LeftOut = LeftOut()
    in_both: InBoth = InBoth(count=0, pairs=())
    white: White | None = None  # None without grey images of more than 8 bits


class RunRecord(Record):
    """`run.json` of a pretraining."""

    row: str
    method: str
    seed: int
    parameters: int
    training_flops: float | None = None  # None for published weights


class ClassifierRecord(Record):
    """`classifier.json`."""

    seed: int
    architecture: str
    width: int
    classes: int  # their number
    accuracy: float  # on validation images, from 0 to 1


class SamplesRecord(Record):
    """`samples.json`."""

    row: str
    seed: int


class ProbeRecord(Record):
    """`probe.json`."""

    row: str
    run: str | None = None  # the row that was trained; None for an untrained network and for raw pixels
    seed: int
    training_flops: float | None = None  # None for published weights, an untrained network and raw pixels
    blocks: dict[int, Estimates]  # by the offset from the encoder's last block; raw pixels have 0 alone


class FinetuneRecord(Record):
    """`finetune.json`; accuracies are shares, from 0 to 1."""

    row: str
    run: str  # the row that was pretrained
    seed: int
    top1: float  # the accuracy on validation images
    top1_low: float  # of its 95 % interval
    top1_high: float
    parameters: int
    training_flops: float


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

    seed: int
    kind: str
    dims: int  # of a latent
    collapsed_dims: int  # dimensions without information
    psnr: dict[int, float]  # of reconstructed validation images in dB, by the number of dimensions kept
    explained: list[float] | None = None  # the share of the variance in the first 1, 2, ... dimensions of a linear fit
    posterior_noise: float | None = None  # of a convolutional tokenizer
    perceptual: str | None = None  # the network of its perceptual loss
