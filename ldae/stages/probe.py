"""Stage: the measures of a row's representation, beside those of the same network with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.prepared import Latents, Split
from ldae.measures.extraction import Encoders
from ldae.measures.intervals import Estimate, grouped_mean
from ldae.measures.measure import Result
from ldae.measures.protocol import Data, evaluate, hold_out
from ldae.parts.loading import build, open_baseline, open_run
from ldae.parts.tokenizers.patches import patchify
from ldae.runtime import ranks
from ldae.runtime.arrays import save_arrays
from ldae.runtime.device import compile_blocks, device_name, mixed_precision, pick_device
from ldae.runtime.files import checksums
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.study.base import PATCH
from ldae.study.methods import METHODS
from ldae.study.recipes import Probing
from ldae.study.record import Options, origin_of, provenance
from ldae.study.results import PIXELS, Manifest, ProbeEstimate, ProbeRecord, RunRecord
from ldae.study.stage_specs import PixelsStage, ProbeStage


def open_data(dataset: Path, probing: Probing, *, seed: int) -> Data:
    """The splits and the held-out groups of a replication; these are the same for every row."""
    classes = len(Manifest.read(dataset / "manifest.json").classes)
    train, val = Split.open(dataset, "train", seed), Split.open(dataset, "val", seed)
    held_out = hold_out(train.groups, probing.held_out, stream(seed, Stream.HELD_OUT))
    return Data(train, val, classes, held_out, pick_device())


def probe(stage: ProbeStage, **options: Unpack[Options]) -> None:
    """Probes a trained row and the same network with random weights, at all blocks in one pass.

    It writes `probe.json` and `correct.npz` into `out`: whether each validation image was classified correctly, by the
    name of the encoder and the measure, e.g. "trained/0/linear".

    Raises:
        ValueError: for a denoiser without its tokenizer.
    """
    dataset, model, tokenizer = options["dataset"], options["model"], options.get("tokenizer")
    run, manifest = RunRecord.read(model / "run.json"), Manifest.read(dataset / "manifest.json")
    origin, data = origin_of("probe", stage, options), open_data(dataset, stage.probing, seed=run.seed)
    if METHODS[run.method].denoises:
        encoders = denoiser_encoders(stage, model, tokenizer, manifest, data.device)
        if tokenizer is not None and (tokenizer / "latents.npy").exists():
            data = data._replace(latents=Latents.open(tokenizer, data.train.labels))
    else:
        encoders = baseline_encoders(stage, model, manifest, data.device)
    about = {"row": options["row"], "run": run.row, "seed": run.seed, "training_flops": run.training_flops}
    _evaluate(stage, encoders, data, about | origin, options["out"])


def denoiser_encoders(
    stage: ProbeStage, model: Path, tokenizer: Path | None, manifest: Manifest, device: torch.device
) -> Encoders:
    """A trained denoiser, and the same with random weights and gates of one."""
    trained = open_run(model)
    denoisers = {}
    for name in ("trained", "random"):
        denoiser = build(trained.stage, seed=trained.seed, tokenizer=tokenizer, manifest=manifest)
        if name == "trained":
            denoiser.network.load_state_dict(trained.weights)
        else:
            denoiser.network.open_gates()
        denoisers[name] = denoiser.to(device)
        compile_blocks(denoiser.network.layers, device)
    first = denoisers["trained"]

    def prepare(images: Tensor, randomness: Randomness) -> Tensor:
        latents = first.encode(images)
        return first.corrupt(latents, stage.time, randomness) if stage.noisy else latents

    def encode(latents: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, denoiser in denoisers.items():
            blocks = denoiser.features(latents, time=stage.time, offsets=stage.offsets)
            for offset, tokens in zip(stage.offsets, blocks, strict=True):
                yield f"{name}/{offset}", tokens

    return Encoders(prepare, encode)


def baseline_encoders(stage: ProbeStage, model: Path, manifest: Manifest, device: torch.device) -> Encoders:
    """A trained baseline's encoder, and the same with random weights; only its last block is probed.

    Raises:
        ValueError: when another block than the last is asked for, or noisy images.
    """
    if stage.offsets != (0,) or stage.noisy:
        raise ValueError(f"{model}: of a method without noise only the encoder's last block is probed")
    encoders = {name: open_baseline(model, manifest.size, random=name == "random") for name in ("trained", "random")}
    for encoder in encoders.values():
        encoder.to(device)
        compile_blocks(encoder.get_submodule("blocks").children(), device)

    def encode(images: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, encoder in encoders.items():
            with mixed_precision(images.device):
                tokens = encoder(images).float()
            yield f"{name}/0", tokens

    return Encoders(lambda images, _: images, encode)


def probe_pixels(stage: PixelsStage, **options: Unpack[Options]) -> None:
    """Probes the mean of the raw 768-dim patches, pooled as every row's tokens are, with no network between."""
    dataset, seed, origin = options["dataset"], options["seed"], origin_of("probe", stage, options)
    data = open_data(dataset, stage.probing, seed=seed)
    encoders = Encoders(lambda images, _: images, lambda images: [("trained/0", patchify(images, PATCH))])
    _evaluate(stage, encoders, data, {"row": PIXELS, "seed": seed} | origin, options["out"])


def _evaluate(stage: PixelsStage, encoders: Encoders, data: Data, about: dict[str, Any], out: Path) -> None:
    """Applies the measures and writes `correct.npz` and then `probe.json`, on rank 0 alone."""
    results = evaluate(encoders, data, stage.probing, measures=stage.measures, seed=about["seed"], title=about["row"])
    if ranks.number():
        return
    correct = {
        f"{encoder}/{name}": result.correct.cpu().numpy().astype(np.uint8)
        for encoder, measures in results.items()
        for name, result in measures.items()
        if result.correct is not None
    }
    save_arrays(out / "correct.npz", **correct)
    estimates = {
        encoder: {
            name: _estimate(f"{encoder}/{name}", result, correct, data.val.groups) for name, result in measures.items()
        }
        for encoder, measures in results.items()
    }
    ProbeRecord(
        **about,
        encoders=estimates,
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
