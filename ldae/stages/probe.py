"""Stage: how good a row's representation is: a linear probe and k-NN, beside the same on its untrained network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.crops import probe_crop
from ldae.data.prepared import Latents, Split, to_float
from ldae.measures.heads import Heads, Neighbours, head_rate
from ldae.measures.intervals import grouped_mean
from ldae.parts.denoiser import mixed_precision
from ldae.parts.loading import build, open_baseline, open_run
from ldae.parts.tokenizers.patches import patchify
from ldae.runtime import ranks
from ldae.runtime.arrays import save_arrays
from ldae.runtime.files import read_json, sums_of, write_json
from ldae.runtime.progress import progress
from ldae.runtime.randomness import Randomness, stream
from ldae.study.base import PATCH
from ldae.study.recipes import Probing
from ldae.study.record import inputs_of, lineage, provenance
from ldae.study.stage_specs import ProbeStage
from ldae.training.loop import compile_blocks, device_name, pick_device

AUGMENT, SHUFFLE, HEADS, HOLD, CORRUPT = 3, 4, 5, 6, 7  # streams of randomness
PART = 2**16  # training images whose features are in memory at once when all is scored
Features = dict[str, Tensor]  # pooled, by the encoder's name and the block's offset, e.g. "random/0": (N, F)


class Encoders(NamedTuple):
    """What is probed: a common first step, and what each encoder makes of it in one pass."""

    prepare: Callable[[Tensor, Randomness], Tensor]  # images (n, 3, S, S), or latents, to what the networks are given
    encode: Callable[[Tensor], Features]


class Crop(NamedTuple):
    """Which window of an image is looked at, and where."""

    view: int | None  # the number of an augmentation; None for the centre
    seed: int  # of the augmentation
    device: torch.device


class Data(NamedTuple):
    """Both splits, where they are computed on, and which training images only choose the learning rate."""

    train: Split
    val: Split
    classes: int
    held: Tensor  # (N,) bool
    device: torch.device
    latents: Latents | None = None  # of the centres of the training images, where their tokenizer has left them


class Result(NamedTuple):
    """One encoder's probe."""

    summary: dict[str, float]
    correct: NDArray[np.uint8]  # (num_val,) by the linear probe


def hold_out(groups: NDArray[np.int64], share: float, seed: int) -> Tensor:
    """Marks (N,) the images of a random `share` of the groups, at least one and never all of them.

    Raises:
        ValueError: where all images form a single group.
    """
    num = int(groups.max()) + 1
    if num < 2:
        raise ValueError("probing.held_out: the training images form a single group, so none can be held out")
    chosen = np.random.default_rng(seed).permutation(num)[: min(max(1, round(share * num)), num - 1)]
    return torch.from_numpy(np.isin(groups, chosen))


def extract(
    encoders: Encoders,
    split: Split | Latents,
    chosen: NDArray[np.int64],
    probing: Probing,
    crop: Crop,
    *,
    first: int = 0,
) -> Features:
    """Each encoder's features (n, F) of the images `chosen` of a split; the ranks take turns with its batches.

    Args:
        encoders: what is probed.
        split: of the prepared images, or the cached latents of their centres.
        chosen: (n,) numbers of images, a piece of a pass over the split.
        probing: the protocol.
        crop: of which windows.
        first: the place of this piece in the pass, from which its randomness follows.
    """
    randomness = Randomness(crop.device)
    features: Features = {}
    for turn, start in enumerate(range(0, len(chosen), probing.extract_batch)):
        own = turn % ranks.size() == ranks.number()
        if not own and turn:  # of the first batch all learn what there is to know
            continue
        inputs = seen(split, chosen[start : start + probing.extract_batch], crop, randomness, place=first + start)
        randomness.restart(crop.seed, CORRUPT, 0 if crop.view is None else crop.view + 1, first + start)
        for name, pooled in encoders.encode(encoders.prepare(inputs, randomness)).items():
            if name not in features:
                features[name] = torch.zeros(len(chosen), pooled.shape[1], device=crop.device)
            if own:
                features[name][start : start + len(pooled)] = pooled
    return {name: ranks.total(values) for name, values in features.items()}


def seen(
    split: Split | Latents, images: NDArray[np.int64], crop: Crop, randomness: Randomness, *, place: int
) -> Tensor:
    """A batch's windows (n, 3, S, S) in [-1, 1], or the latents (n, T, d) of its centres, before standardisation."""
    if isinstance(split, Latents):
        return split.batch(images, crop.device)[0][:, 0].float()  # beside those of the mirror images
    if crop.view is None:
        return to_float(split.batch(images, crop.device)[0])
    randomness.restart(crop.seed, AUGMENT, crop.view, place)
    return probe_crop(to_float(split.as_stored.batch(images, crop.device)[0]), randomness, size=split.size)


def held_features(encoders: Encoders, data: Data, probing: Probing, seed: int) -> list[Features]:
    """The training images' features that are computed once: of each augmentation; with none, of the centre crop."""
    if probing.mode == "exact":
        return []
    every = np.arange(len(data.train))
    if probing.centres_alone:
        return [extract(encoders, data.latents or data.train, every, probing, Crop(None, seed, data.device))]
    crops = [Crop(view, seed, data.device) for view in range(probing.views)]
    return [extract(encoders, data.train, every, probing, crop) for crop in crops]


def training_batches(
    encoders: Encoders, data: Data, probing: Probing, seed: int, held: list[Features]
) -> Iterator[tuple[float, Tensor, Features]]:
    """For each step: the epochs before it, the images (n,) that it trains on, and their features.

    Those `held` in memory are taken in turn. For want of any, those of a new augmentation every time are computed batch
    by batch, for ImageNet's would not fit: seven blocks of two networks are 73 GB at width 1024.
    """
    num, device = len(data.train), data.device
    batch = min(probing.batch, num)
    for epoch in range(probing.epochs):
        order = torch.randperm(num, generator=_generator(device, seed, SHUFFLE, epoch), device=device)
        for start in range(0, num - batch + 1, batch):
            chosen = order[start : start + batch]
            if held:
                features = {name: values[chosen] for name, values in held[epoch % len(held)].items()}
            else:
                images = chosen.cpu().numpy()
                features = extract(encoders, data.train, images, probing, Crop(epoch, seed, device), first=start)
            yield epoch + start / num, chosen, features


class Probe:
    """One encoder's linear probe: heads trained without the held-out images, to choose a rate, and on all images.

    Both take every step together, on the same features.
    """

    def __init__(self, features: int, data: Data, rates: Tensor, seed: int) -> None:
        """Starts from random heads; `rates` (H,) are those to choose from."""
        self.choosing, self.final = (
            Heads(features, data.classes, rates, _generator(data.device, seed, HEADS)) for _ in range(2)
        )

    def step(self, features: Tensor, labels: Tensor, shown: Tensor, share: float) -> None:
        """Trains on a batch (n, F) with labels (n,), of which the choosing heads are shown those at `shown` (k,)."""
        self.final.step(features, labels, share)
        self.choosing.step(features[shown], labels[shown], share)


def train_probes(
    encoders: Encoders, data: Data, probing: Probing, *, seed: int, title: str
) -> tuple[dict[str, Probe], Features | None]:
    """Each encoder's trained probe; and the features of the training images' centre crops, if it learned from those."""
    batch = min(probing.batch, len(data.train))
    labels, held_out = data.train.labels.to(data.device), data.held.to(data.device)
    rates = torch.tensor(probing.rates, device=data.device) * batch / 256
    probes: dict[str, Probe] = {}
    with progress(title, probing.epochs * (len(data.train) // batch), "steps") as bar:
        held = held_features(encoders, data, probing, seed)
        for epochs, chosen, features in training_batches(encoders, data, probing, seed, held):
            share = head_rate(epochs, epochs=probing.epochs, warmup=probing.warmup)
            shown = (~held_out[chosen]).nonzero()[:, 0]
            for name, values in features.items():
                if name not in probes:
                    probes[name] = Probe(values.shape[1], data, rates, seed)
                probes[name].step(values, labels[chosen], shown, share)
            bar.advance(1)
    return probes, held[0] if probing.centres_alone else None


def evaluate(encoders: Encoders, data: Data, probing: Probing, *, seed: int, title: str) -> dict[str, Result]:
    """Each encoder's accuracy; its rate is the best on held-out training images, and validation is only reported."""
    with torch.inference_mode():
        probes, centres = train_probes(encoders, data, probing, seed=seed, title=title)
        centre = Crop(None, seed, data.device)
        val = extract(encoders, data.val, np.arange(len(data.val)), probing, centre)
        scores = {name: Score(probes[name], val[name], data, probing) for name in probes}
        size = -(-PART // probing.extract_batch) * probing.extract_batch
        for start in range(0, len(data.train), size):
            part = np.arange(start, min(start + size, len(data.train)))
            if centres:
                features = {name: values[part] for name, values in centres.items()}
            else:
                features = extract(encoders, data.latents or data.train, part, probing, centre, first=start)
            for name, values in features.items():
                scores[name].update(values, part)
        return {name: score.result() for name, score in scores.items()}


class Score:
    """How well one encoder's probe does; the training images, which choose its rate and vote, come part by part."""

    def __init__(self, probe: Probe, val: Tensor, data: Data, probing: Probing) -> None:
        """Of a trained probe, and features (num_val, F) of the validation images."""
        self.probe, self.val, self.data, self.probing = probe, val, data, probing
        self.neighbours = Neighbours(val, probing.neighbours)
        self.right = torch.zeros(len(probing.rates), dtype=torch.long, device=val.device)  # of the held-out images

    def update(self, features: Tensor, images: NDArray[np.int64]) -> None:
        """Looks at features (n, F) of so many training `images`."""
        labels = self.data.train.labels[images].to(features.device)
        held = self.data.held[images].to(features.device)
        self.right += (self.probe.choosing.predict(features[held]) == labels[held, None]).sum(0)
        self.neighbours.update(features, labels)

    def result(self) -> Result:
        """The probe's accuracy at the rate that did best on the held-out training images."""
        held_accuracy = self.right.float() / int(self.data.held.sum())  # (H,)
        best = int(held_accuracy.argmax())
        labels = self.data.val.labels.to(self.val.device)
        correct = (self.probe.final.predict(self.val)[:, best] == labels).cpu().numpy()
        interval = grouped_mean(correct.astype(np.float64), self.data.val.groups)
        summary = {
            "top1": interval.value,
            "top1_low": interval.low,
            "top1_high": interval.high,
            "knn": (self.neighbours.vote(self.data.classes) == labels).float().mean().item(),
            "held_out": held_accuracy[best].item(),
            "rate": self.probing.rates[best],
            "rate_at_edge": len(self.probing.rates) > 1 and best in (0, len(self.probing.rates) - 1),
        }
        return Result(summary, correct.astype(np.uint8))


def open_data(dataset: Path, probing: Probing, classes: int) -> Data:
    """The splits, and the held-out groups, which are the same for every row and seed."""
    train, val = Split.open(dataset, "train"), Split.open(dataset, "val")
    held = hold_out(train.groups, probing.held_out, stream(HOLD))
    return Data(train, val, classes, held, pick_device())


def probe(
    stage: ProbeStage,
    *,
    row: str,
    revision: int,
    dataset: Path,
    model: Path,
    out: Path,
    tokenizer: Path | None = None,
    import_seconds: float = 0.0,
) -> None:
    """Probes a trained row and the same network with random weights, at all the blocks asked for in one pass.

    Args:
        stage: what probing reads of the row and the scale.
        row: its name.
        revision: of the code that probes.
        dataset, model: folders of earlier stages.
        tokenizer: the folder of the tokenizer's fit; None for a method that has none.
        out: gets `probe.json` and `correct.npz`: for each validation image, whether the probe was right.
        import_seconds: from the start of the process until now.

    Raises:
        ValueError: for a denoiser without its tokenizer.
    """
    run, inputs = read_json(model / "run.json"), inputs_of(dataset=dataset, tokenizer=tokenizer, model=model)
    manifest = read_json(dataset / "manifest.json")
    data = open_data(dataset, stage.probing, len(manifest["classes"]))
    if run["method"] == "denoiser":
        if tokenizer is None:
            raise ValueError(f"{model}: is a denoiser's; name the folder of its --tokenizer")
        encoders = denoiser_encoders(stage, model, tokenizer, manifest, data.device)
        if (tokenizer / "latents.npy").exists():
            data = data._replace(latents=Latents.open(tokenizer, data.train.labels))
    else:
        encoders = baseline_encoders(stage, model, manifest, data.device)
    results = evaluate(encoders, data, stage.probing, seed=run["seed"], title=row)
    about = {"row": row, "run": run["row"], "seed": run["seed"], "training_flops": run["training_flops"]}
    about["lineage"] = lineage("probe", stage, revision, run["lineage"])
    about["inputs"] = inputs
    _write(out, about, results, data, import_seconds)


def denoiser_encoders(
    stage: ProbeStage, model: Path, tokenizer: Path, manifest: dict[str, Any], device: torch.device
) -> Encoders:
    """A trained denoiser, and the same with random weights and open gates."""
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

    def encode(latents: Tensor) -> Features:
        return {
            f"{name}/{offset}": tokens.mean(1)
            for name, denoiser in denoisers.items()
            for offset, tokens in zip(
                stage.offsets, denoiser.features(latents, time=stage.time, offsets=stage.offsets), strict=True
            )
        }

    return Encoders(prepare, encode)


def baseline_encoders(stage: ProbeStage, model: Path, manifest: dict[str, Any], device: torch.device) -> Encoders:
    """A trained baseline's encoder, and the same with random weights; only its last block is probed.

    Raises:
        ValueError: when another block than the last is asked for, or noisy images.
    """
    if stage.offsets != (0,) or stage.noisy:
        raise ValueError(f"{model}: of a method without noise only the encoder's last block is probed")
    encoders = {name: open_baseline(model, manifest, random=name == "random") for name in ("trained", "random")}
    for encoder in encoders.values():
        encoder.to(device)
        compile_blocks(encoder.get_submodule("blocks").children(), device)

    def encode(images: Tensor) -> Features:
        with mixed_precision(images.device):
            return {f"{name}/0": encoder(images).float().mean(1) for name, encoder in encoders.items()}

    return Encoders(lambda images, _: images, encode)


def probe_pixels(stage: ProbeStage, *, revision: int, dataset: Path, out: Path, import_seconds: float = 0.0) -> None:
    """Probes the mean of the raw 768-dim patches, pooled as every row's tokens are, with no network between."""
    manifest, inputs = read_json(dataset / "manifest.json"), inputs_of(dataset=dataset)
    data = open_data(dataset, stage.probing, len(manifest["classes"]))
    encoders = Encoders(lambda images, _: images, lambda images: {"trained/0": patchify(images, PATCH).mean(1)})
    results = evaluate(encoders, data, stage.probing, seed=0, title="raw pixels")
    made = lineage("probe", stage, revision, manifest["lineage"])
    about = {"row": "raw pixels", "seed": 0, "lineage": made, "inputs": inputs}
    _write(out, about, results, data, import_seconds)


def _write(out: Path, about: dict[str, Any], results: dict[str, Result], data: Data, import_seconds: float) -> None:
    if ranks.number():
        return
    save_arrays(out / "correct.npz", **{name: result.correct for name, result in results.items()})
    summaries = {name: result.summary for name, result in results.items()}
    about |= {"encoders": summaries, "sha256": sums_of(out / "correct.npz")}
    write_json(out / "probe.json", about | {"provenance": provenance(device_name(data.device), import_seconds)})


def _generator(device: torch.device, *key: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(stream(*key))
