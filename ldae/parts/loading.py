"""Networks from files: a tokenizer's fit, the manifest of a data set, trained or published weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldae.parts.classifiers import CLASSIFIERS
from ldae.parts.denoiser import Denoiser
from ldae.parts.methods.encoder import Encoder
from ldae.runtime.files import read_json, verified
from ldae.runtime.randomness import Stream, stream
from ldae.runtime.weights import read_weights
from ldae.study.base import ExternalFile
from ldae.study.checking import listed, nearest
from ldae.study.methods import METHODS
from ldae.study.results import (
    ClassifierRecord,
    Manifest,
    ProbeEstimate,
    ProbeRecord,
    RunRecord,
)
from ldae.study.spec import Features
from ldae.study.stage_specs import (
    AdoptStage,
    BaselineStage,
    DenoiserStage,
    PretrainingStage,
    PretrainStage,
    ProbeStage,
    UntrainedFeatures,
    UntrainedStage,
)
from ldae.study.stages import SHARED_SEED

Converted = TypeVar("Converted")
HAS_NO_RUN = "holds no finished run (no run.json); name a folder like results/laptop/pretrain/ldae/seed0"


def build(stage: DenoiserStage, *, seed: int, tokenizer: Path | None, manifest: Manifest) -> Denoiser:
    """An untrained denoiser with the tokenizer of a folder, for a data set; the same seed gives the same weights."""
    if tokenizer is None:
        raise ValueError("a denoiser needs its tokenizer; name its folder with --tokenizer")
    fitted = load_file(verified(tokenizer / "tokenizer.safetensors", read_json(tokenizer / "tokenizer.json")["sha256"]))
    classes = stage.weights.classes if isinstance(stage, AdoptStage) else len(manifest.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, Stream.INITIAL))
        return Denoiser(stage, fitted, image_size=manifest.size, classes=classes)


def published_weights(file: ExternalFile, convert: Callable[[dict[str, Tensor]], Converted]) -> Converted:
    """What `convert` makes of the published weights of a file.

    Raises:
        ValueError, OSError: in one line, for a file that is absent, another one, or of other weights.
    """
    path = Path(file.path).expanduser()
    state = read_weights(path, file.sha256)
    try:
        return convert(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class TrainedDenoiser(NamedTuple):
    """A finished run: its stage, its seed, its record and its weights."""

    stage: DenoiserStage
    seed: int
    run: RunRecord
    weights: dict[str, Tensor]


def open_run(folder: Path, weights: str = "model") -> TrainedDenoiser:
    """Reads a finished pretraining; `weights` is `model`, or `ema` for the averaged ones that sampling uses.

    Raises:
        ValueError: for a method that is not a denoiser, and for files that are damaged.
    """
    run = RunRecord.read(folder / "run.json")
    stage = stage_of(run)
    if isinstance(stage, BaselineStage):
        raise ValueError(f"{folder}: holds {run.method}, which is not a denoiser")
    return TrainedDenoiser(stage, run.seed, run, load_file(verified(folder / f"{weights}.safetensors", run.sha256)))


def stage_of(run: RunRecord) -> PretrainingStage:
    """The stage that trained the network of a record, or took its published weights."""
    spec = run.lineage["pretrain"]["spec"]
    if not METHODS[run.method].denoises:
        return BaselineStage.model_validate(spec)
    return (AdoptStage if "weights" in spec else PretrainStage).model_validate(spec)


def open_denoiser(folder: Path, tokenizer: Path | None, manifest: Manifest, *, weights: str = "model") -> Denoiser:
    """A trained denoiser, ready to be used; the arguments are those of `build` and `open_run`."""
    trained = open_run(folder, weights)
    denoiser = build(trained.stage, seed=trained.seed, tokenizer=tokenizer, manifest=manifest)
    denoiser.network.load_state_dict(trained.weights)
    return denoiser.eval().requires_grad_(False)


def build_baseline(stage: BaselineStage, *, seed: int, image_size: int) -> nn.Module:
    """The untrained module of a method, or the encoder of a published one; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, Stream.INITIAL))
        if stage.weights is not None:
            return nn.ModuleDict({"encoder": Encoder(stage.size, image_size, class_token=True)})
        build_method: Callable[..., nn.Module] = import_module(f"ldae.parts.methods.{stage.method}").build
        return build_method(stage.size, stage.training, image_size)


def open_baseline(folder: Path, image_size: int) -> nn.Module:
    """The encoder of a trained baseline, ready to be used."""
    run = RunRecord.read(folder / "run.json")
    stage = BaselineStage.model_validate(run.lineage["pretrain"]["spec"])
    encoder = build_baseline(stage, seed=run.seed, image_size=image_size).get_submodule("encoder")
    encoder.load_state_dict(load_file(verified(folder / "model.safetensors", run.sha256)))
    return encoder.eval().requires_grad_(False)


class FinishedRun(NamedTuple):
    """A finished run of a row or a baseline, with all that lies around it in the results of a scale."""

    folder: Path  # its own
    run: RunRecord  # its record
    manifest: Manifest  # of the images that it was trained on
    network: nn.Module  # a `Denoiser`, or the `Encoder` of a baseline; frozen, on the CPU

    @property
    def denoiser(self) -> Denoiser:
        """The network of a row; a `ValueError` for a baseline's."""
        if not isinstance(self.network, Denoiser):
            row, method = self.run.row, self.run.method
            raise ValueError(f"{row}: is {method}, which does not denoise; name a denoiser's run")
        return self.network

    @property
    def white(self) -> float | None:
        """The value that is white in grey images of more than 8 bits; None where the data set had none."""
        white = self.manifest.white
        return white.level if white is not None else None

    def probe(self, features: Features) -> ProbeEstimate | None:
        """The linear probe's estimate of these features; None if no such probe has run.

        A record in another format, which an earlier revision of the probe wrote, does not count. The time step has no
        meaning for an encoder that is not a denoiser.
        """
        for record in self._probes("probe"):
            if record.run != self.run.row or record.lineage["pretrain"] != self.run.lineage["pretrain"]:
                continue
            stage = ProbeStage.model_validate(record.lineage["probe"]["spec"])
            same = (stage.time, stage.noisy) == (features.time, features.noisy)
            if (same or not METHODS[self.run.method].denoises) and features.offset in record.blocks:
                return record.blocks[features.offset]["linear"]
        return None

    def probe_untrained(self, features: Features) -> ProbeEstimate | None:
        """The same of the network that the training started from."""
        expected = UntrainedFeatures.of(stage_of(self.run), features)
        for record in self._probes("untrained"):
            made_from = dict(record.lineage)
            stage = UntrainedStage.model_validate(made_from.pop("probe")["spec"])
            same = stage.features == expected and made_from.items() <= self.run.lineage.items()
            if same and features.offset in record.blocks:
                return record.blocks[features.offset]["linear"]
        return None

    def _probes(self, folder: str) -> Iterator[ProbeRecord]:
        """The records of probes with this run's seed, in a folder of the results."""
        results = self.folder.absolute().parent.parent.parent
        for path in sorted(results.glob(f"{folder}/*/seed{self.run.seed}/probe.json")):
            about = read_json(path)
            try:
                yield ProbeRecord.parse(about, path)
            except ValueError:
                continue


def find_run(folder: Path, *, row: str | None = None, seed: int | None = None) -> Path:
    """The folder of a finished run.

    It is found from the run's own folder, e.g. results/laptop/pretrain/ldae/seed0, from its row's, or from the results
    of a scale, results/laptop, which may need the name of a `row`. Without a `seed`, it is the run of the smallest one.

    Raises:
        ValueError, FileNotFoundError: in one line, where there is no such run, and where several rows could be meant.
    """
    if (folder / "run.json").is_file():
        return folder
    if (folder / "pretrain").is_dir():
        rows = sorted({path.parent.parent.name for path in folder.glob("pretrain/*/seed*/run.json")})
        if row is None and len(rows) > 1:
            raise ValueError(f"{folder}: has several trained rows; name one of {listed(rows)}")
        if row is not None and rows and row not in rows:
            raise ValueError(f"{folder}: has no trained row {row!r}{nearest(row, rows)}; it has {listed(rows)}")
        folder = folder / "pretrain" / (row or "".join(rows))
    runs = {int(path.parent.name.removeprefix("seed")): path.parent for path in folder.glob("seed*/run.json")}
    if not runs:
        raise FileNotFoundError(f"{folder}: {HAS_NO_RUN}")
    if seed is not None and seed not in runs:
        raise FileNotFoundError(
            f"{folder}: has no finished run of seed {seed}; it has {listed(map(str, sorted(runs)))}"
        )
    return runs[min(runs) if seed is None else seed]


def open_finished(folder: Path) -> FinishedRun:
    """Opens a run by its folder, e.g. results/laptop/pretrain/ldae/seed0; the other files lie beside it in the results.

    Raises:
        ValueError, FileNotFoundError: in one line, for a folder that holds no run, or damaged or missing files.
    """
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder}: {HAS_NO_RUN}")
    results, run = folder.absolute().parent.parent.parent, RunRecord.read(folder / "run.json")
    needed = [results / "dataset/manifest.json"]
    stage = stage_of(run)
    if not isinstance(stage, BaselineStage):
        shared = run.lineage["tokenizer"]["spec"].get("shared")
        fit = f"seed{SHARED_SEED if shared else run.seed}"
        needed.append(results / "tokenizers" / stage.tokenizer.name / fit / "tokenizer.json")
    for path in needed:
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: was copied without the results that it needs (no {path.relative_to(results)}); copy the "
                "whole results folder of its scale, or take only the encoder along with `ldae export`"
            )
    manifest = Manifest.read(needed[0])
    if isinstance(stage, BaselineStage):
        return FinishedRun(folder, run, manifest, open_baseline(folder, manifest.size))
    return FinishedRun(folder, run, manifest, open_denoiser(folder, needed[1].parent, manifest))


def open_classifier(folder: Path) -> tuple[nn.Module, ClassifierRecord]:
    """A trained classifier, frozen, and its record."""
    record = ClassifierRecord.read(folder / "classifier.json")
    network = CLASSIFIERS[record.architecture](record.classes, record.width)
    network.load_state_dict(load_file(verified(folder / "weights.safetensors", record.sha256)))
    return network.eval().requires_grad_(False), record
