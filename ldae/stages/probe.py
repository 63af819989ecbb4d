"""Stages: the measures of a representation, of trained networks, of untrained ones and of raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldae.data.prepared import Latents, Split
from ldae.measures.extraction import Encoders
from ldae.measures.intervals import Estimate, grouped_mean
from ldae.measures.measure import Result
from ldae.measures.protocol import Data, evaluate, hold_out
from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import open_baseline, open_denoiser
from ldae.parts.noise import Level
from ldae.parts.tokenizers.patches import patchify
from ldae.parts.untrained import untrained_denoiser, untrained_encoder
from ldae.runtime import ranks
from ldae.runtime.arrays import save_arrays
from ldae.runtime.device import compile_blocks, device_name, mixed_precision, pick_device
from ldae.runtime.files import checksums
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.study.base import PATCH
from ldae.study.checking import listed
from ldae.study.methods import METHODS
from ldae.study.recipes import Probing
from ldae.study.record import Options, origin_of, provenance
from ldae.study.results import PIXELS, Manifest, ProbeEstimate, ProbeRecord, RunRecord
from ldae.study.stage_specs import PixelsStage, ProbeStage, UntrainedStage


def open_data(dataset: Path, probing: Probing, *, seed: int, tokenizer: Path | None = None) -> Data:
    """The splits and the held-out groups of a replication, which all rows share, and the latents of a tokenizer."""
    classes = len(Manifest.read(dataset / "manifest.json").classes)
    train, val = Split.open(dataset, "train", seed), Split.open(dataset, "val", seed)
    held_out = hold_out(train.groups, probing.held_out, stream(seed, Stream.HELD_OUT))
    latents = None
    if tokenizer is not None and (tokenizer / "latents.npy").exists():
        latents = Latents.open(tokenizer, train.labels)
    return Data(train, val, classes, held_out, pick_device(), latents)


def probe(stage: ProbeStage, **options: Unpack[Options]) -> None:
    """Probes a trained row, at all blocks in one pass.

    It writes `probe.json` and `correct.npz` into `out`: whether each validation image was classified correctly, by the
    offset of the block and the measure, e.g. "0/linear".

    Raises:
        ValueError: for a denoiser without its tokenizer; for another block of a method that is not a denoiser than the
            last, or with noise on its input.
    """
    dataset, model, tokenizer = options["dataset"], options["model"], options.get("tokenizer")
    run, manifest = RunRecord.read(model / "run.json"), Manifest.read(dataset / "manifest.json")
    origin = origin_of("probe", stage, options)
    data = open_data(dataset, stage.probing, seed=run.seed, tokenizer=tokenizer)
    encoders = trained_encoders(stage, model, tokenizer=tokenizer, manifest=manifest, device=data.device)
    about = {"row": options["row"], "run": run.row, "seed": run.seed, "training_flops": run.training_flops}
    _evaluate(stage, encoders, data, about | origin, options["out"])


def probe_untrained(stage: UntrainedStage, **options: Unpack[Options]) -> None:
    """Probes the network that a row's training starts from; it writes files like those of `probe`.

    Raises:
        ValueError: as `probe`.
    """
    dataset, tokenizer, seed = options["dataset"], options.get("tokenizer"), options["seed"]
    manifest, origin = Manifest.read(dataset / "manifest.json"), origin_of("probe", stage, options)
    data = open_data(dataset, stage.probing, seed=seed, tokenizer=tokenizer)
    encoders = untrained_encoders(stage, seed=seed, tokenizer=tokenizer, manifest=manifest, device=data.device)
    _evaluate(stage, encoders, data, {"row": options["row"], "seed": seed} | origin, options["out"])


def trained_encoders(
    stage: ProbeStage, model: Path, *, tokenizer: Path | None, manifest: Manifest, device: torch.device
) -> Encoders:
    """The probed blocks of a trained network."""
    run = RunRecord.read(model / "run.json")
    if not METHODS[run.method].denoises:
        if stage.noisy:
            raise ValueError(f"{model}: of a method without noise only clean images are probed")
        return _of_encoder(open_baseline(model, manifest.size), stage.offsets, device)
    denoiser = open_denoiser(model, tokenizer, manifest)

    def corrupt(latents: Tensor, randomness: Randomness) -> Tensor:
        return denoiser.corrupt(latents, stage.time, randomness) if stage.noisy else latents

    return _of_denoiser(denoiser, corrupt, stage.offsets, device, time=stage.time)


def untrained_encoders(
    stage: UntrainedStage, *, seed: int, tokenizer: Path | None, manifest: Manifest, device: torch.device
) -> Encoders:
    """The probed blocks of a network before its training; a denoiser's time step is without effect there."""
    features = stage.features
    if not METHODS[features.method].denoises:
        return _of_encoder(untrained_encoder(features, seed=seed, image_size=manifest.size), stage.offsets, device)
    denoiser = untrained_denoiser(features, offsets=stage.offsets, seed=seed, tokenizer=tokenizer, manifest=manifest)
    level = Level(*(torch.tensor(strength, device=device) for strength in (features.signal, features.noise)))

    def corrupt(latents: Tensor, randomness: Randomness) -> Tensor:
        return latents if features.is_clean else level.mix(latents, randomness.normal(*latents.shape))

    return _of_denoiser(denoiser, corrupt, stage.offsets, device, time=0)


def _of_denoiser(
    denoiser: Denoiser,
    corrupt: Callable[[Tensor, Randomness], Tensor],
    offsets: Sequence[int],
    device: torch.device,
    *,
    time: int,
) -> Encoders:
    """The blocks at some offsets of a denoiser that is conditioned on a time step; `corrupt` adds noise to latents."""
    denoiser.to(device)
    compile_blocks(denoiser.network.layers, device)

    def prepare(images: Tensor, randomness: Randomness) -> Tensor:
        return corrupt(denoiser.encode(images), randomness)

    def encode(latents: Tensor) -> Iterator[tuple[str, Tensor]]:
        blocks = denoiser.features(latents, time=time, offsets=offsets)
        yield from zip(map(str, offsets), blocks, strict=True)

    return Encoders(prepare, encode)


def _of_encoder(encoder: nn.Module, offsets: Sequence[int], device: torch.device) -> Encoders:
    """The last block of an encoder without time steps; a `ValueError` when another block is asked for."""
    if tuple(offsets) != (0,):
        raise ValueError(
            f"offsets {listed(map(str, offsets))}: of MAE and MoCo v3 only the encoder's last block is probed"
        )
    encoder.to(device)
    compile_blocks(encoder.get_submodule("blocks").children(), device)

    def encode(images: Tensor) -> Iterator[tuple[str, Tensor]]:
        with mixed_precision(images.device):
            tokens = encoder(images).float()
        yield "0", tokens

    return Encoders(lambda images, _: images, encode)


def probe_pixels(stage: PixelsStage, **options: Unpack[Options]) -> None:
    """Probes the mean of the raw 768-dim patches, pooled as every row's tokens are, with no network between."""
    dataset, seed, origin = options["dataset"], options["seed"], origin_of("probe", stage, options)
    data = open_data(dataset, stage.probing, seed=seed)
    encoders = Encoders(lambda images, _: images, lambda images: [("0", patchify(images, PATCH))])
    _evaluate(stage, encoders, data, {"row": PIXELS, "seed": seed} | origin, options["out"])


def _evaluate(stage: PixelsStage, encoders: Encoders, data: Data, about: dict[str, Any], out: Path) -> None:
    """Applies the measures and writes `correct.npz` and then `probe.json`, on rank 0 alone."""
    results = evaluate(encoders, data, stage.probing, measures=stage.measures, seed=about["seed"], title=about["row"])
    if ranks.number():
        return
    correct = {
        f"{block}/{name}": result.correct.cpu().numpy().astype(np.uint8)
        for block, measures in results.items()
        for name, result in measures.items()
        if result.correct is not None
    }
    save_arrays(out / "correct.npz", **correct)
    estimates = {
        int(block): {
            name: _estimate(f"{block}/{name}", result, correct, data.val.groups) for name, result in measures.items()
        }
        for block, measures in results.items()
    }
    ProbeRecord(
        **about,
        blocks=estimates,
        sha256=checksums(out / "correct.npz"),
        provenance=provenance(device_name(data.device)),
    ).write(out / "probe.json")


def _estimate(
    array: str, result: Result, correct: dict[str, NDArray[np.uint8]], groups: NDArray[np.int64]
) -> ProbeEstimate:
    """A result as the record has it: an accuracy with its interval over groups, any other number by itself."""
    is_accuracy = array in correct
    single = Estimate(result.value, result.value, result.value)
    interval = grouped_mean(correct[array].astype(np.float64), groups) if is_accuracy else single
    return ProbeEstimate(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        correct=array if is_accuracy else None,
        rate=result.rate,
        held_out=result.held_out,
        rate_at_edge=result.rate_at_edge,
    )
