"""Each stage's own code on a few synthetic pictures, and the numbers that come out.

What a stage is given is written by formula, not by the stages before it: a change of one stage's code moves its own
numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args
from unittest import mock

import numpy as np
import torch
from PIL import Image
from rows import VARIANTS, images, run
from small_inputs import (
    CLASSES,
    CLASSIFIER,
    CONV,
    ROWS,
    SAMPLE_VARIANCES,
    SIZE,
    TRAINING,
    classifier,
    cosines,
    dataset,
    denoiser,
    encoder,
    folder,
    samples,
    tokenizer,
)
from torch import Tensor

from ldae.data.division import Division, SplitName
from ldae.measures.attentive import AttentiveHeads
from ldae.measures.knn import KNN
from ldae.measures.linear import Heads
from ldae.measures.measure import Encoded, ProbeTask
from ldae.runtime.files import read_json
from ldae.runtime.weights import load_file
from ldae.stages.denoise import denoise
from ldae.stages.finetune import finetune
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.judge import judge, reference
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe, probe_pixels, probe_untrained
from ldae.stages.sample import sample
from ldae.stages.train_classifier import train_classifier
from ldae.stages.train_tokenizer import train_tokenizer
from ldae.study.base import Architecture, EncoderSize
from ldae.study.methods import MAETraining, MoCoTraining
from ldae.study.recipes import Finetuning, Probing, Training
from ldae.study.scale import Dataset, Fitting, Folder, Judging, Photos, Sampling
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DatasetStage,
    DenoiseStage,
    FinetuneStage,
    JudgeStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    TokenizerStage,
    UntrainedFeatures,
    UntrainedStage,
)

Numbers = dict[str, float]
T = TypeVar("T")


def summary(name: str, values: Any) -> Numbers:
    """Two numbers of an array that rounding hardly moves, and any other change does.

    The first is the root mean square. The second is the mean of the values' excess over their mean, where each place
    has a weight of its own, so that signs and order count.
    """
    x = torch.as_tensor(values).double().flatten()
    weights = 2 * torch.frac(torch.arange(1, len(x) + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)
    return {
        name: x.square().mean().sqrt().item(),
        f"{name} in order": ((x - x.mean()).clamp_min(0) * weights).mean().item(),
    }


def weights_of(name: str, state: dict[str, Tensor]) -> Numbers:
    """The means of these numbers over the matrices of a state, whatever their names and their order.

    Biases before a norm have no gradient but rounding, and AdamW makes whole steps of it.
    """
    matrices = [tensor for tensor in state.values() if tensor.ndim > 1]
    sizes, summaries = [matrix.numel() for matrix in matrices], [summary(name, matrix) for matrix in matrices]
    return {
        key: math.fsum(size * numbers[key] for size, numbers in zip(sizes, summaries, strict=True)) / sum(sizes)
        for key in summaries[0]
    }


def last_line(out: Path) -> Numbers:
    """What the last line of a training's history measures, which follows `step` and `images`."""
    header, *lines = (out / "history.csv").read_text().splitlines()
    columns = list(zip(header.split(","), lines[-1].split(","), strict=True))[2:]
    return {key: float(value) for key, value in columns}


@contextmanager
def instances(kind: type[T]) -> Iterator[list[T]]:
    """Collects the objects of a class that the block creates, in order."""
    found: list[T] = []
    original = kind.__init__

    def collecting(self: T, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        found.append(self)

    with mock.patch.object(kind, "__init__", collecting):
        yield found


def dataset_numbers(source: Dataset) -> Numbers:
    """Statistics of the images, the labels and the groups of both splits."""
    out = folder() / "prepared" / source.source
    prepare(DatasetStage(dataset=source), revision=1, out=out, workers=1)
    numbers: Numbers = {}
    pool = np.load(out / "images.npy")
    for split in get_args(SplitName):
        division = Division.open(out, split, seed=0)
        pixels, labels, groups = pool[division.index], division.labels, division.groups
        numbers |= summary(f"{split} pixels", pixels)
        numbers |= summary(f"{split} differences", np.diff(pixels.astype(float), axis=-1))
        numbers |= summary(f"{split} labels", labels) | summary(f"{split} groups", groups)
    return numbers


def photos() -> Numbers:
    """The photographs that come with the packages."""
    return dataset_numbers(Photos(source="photos", size=32, train=60, val=40))


def picture_folder() -> Numbers:
    """Pictures of several kinds and shapes in class folders."""
    root = folder() / "pictures"
    for number, pixels in enumerate(images(24, 90).permute(0, 2, 3, 1).numpy()):
        path = root / "abc"[number % 3] / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels[: 40 + 2 * number, : 90 - 2 * number])
        match number % 4:
            case 0:
                image.save(path.with_suffix(".png"))
            case 1:
                image.save(path.with_suffix(".jpg"), quality=90)
            case 2:
                image.convert("L").save(path.with_suffix(".png"))
            case 3:
                Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 101).save(path.with_suffix(".png"))
    return dataset_numbers(Folder(source="folder", path=str(root), size=32, store=40, val_fraction=0.3))


def linear_tokenizer_numbers(kind: Any, *, without: str = "none", **options: Any) -> Numbers:
    """A tokenizer that is fitted to patches: its mean, the variance of its latents, and what it gives back.

    The optimum of the patch-wise VAE and AE is flat, so that rounding moves some numbers: those whose names start
    with `without` are left out.
    """
    out = folder() / "tokenizers" / kind
    stage = TokenizerStage(kind=kind, fitting=Fitting(patches=200, kl=10.0), **options)
    fit_tokenizer(stage, seed=0, revision=1, dataset=dataset(), out=out)
    fitted, about = load_file(out / "tokenizer.safetensors"), read_json(out / "tokenizer.json")
    numbers = summary("mean", fitted["mean"]) | {"variance": float(fitted["variance"].sum())}
    numbers |= {f"psnr {dim}": value for dim, value in about["psnr"].items()}
    numbers |= {"collapsed dimensions": about["collapsed_dims"]}
    return {name: value for name, value in numbers.items() if not name.startswith(without)}


def conv_tokenizer_numbers(**losses: bool) -> Numbers:
    """A convolutional tokenizer: its losses, its latents, and what it gives back."""
    out = folder() / "tokenizers" / "-".join(["conv", *losses])
    # With all losses larger steps are chaotic; with a narrow discriminator the adaptive weight is at its bound.
    small = {"rate": 1e-6, "adversarial_weight": 5.0, "discriminator_width": 32}
    recipe = CONV.model_copy(update=small) if losses else CONV
    resume, stage = out / "resume", ConvolutionalStage(dim=16, convolutional=recipe, **losses)
    vgg = classifier("vgg") if stage.needs_vgg else None
    train_tokenizer(stage, seed=0, revision=1, dataset=dataset(), resume=resume, out=out, vgg=vgg)
    fitted, about = load_file(out / "tokenizer.safetensors"), read_json(out / "tokenizer.json")
    numbers = last_line(out) | {"psnr": about["psnr"]["16"], "posterior noise": about["posterior_noise"]}
    numbers |= summary("latents", np.load(out / "latents.npy")) | weights_of("weights", fitted)
    return numbers | summary("mean", fitted["mean"]) | summary("variance", fitted["variance"])


def classifier_numbers(architecture: Architecture) -> Numbers:
    """A classifier: its loss, its weights and its accuracy."""
    out = folder() / "trained" / architecture
    stage = ClassifierStage(architecture=architecture, classifier=CLASSIFIER)
    train_classifier(stage, seed=0, revision=1, dataset=dataset(), resume=out / "resume", out=out)
    return (
        last_line(out)
        | weights_of("weights", load_file(out / "weights.safetensors"))
        | {"validation": read_json(out / "classifier.json")["accuracy"]}
    )


def first_steps(row: str) -> Numbers:
    """The loss and the gradient norm of a row's third step."""
    training = run(row)
    for _ in range(3):
        measured = training.update(images(), torch.arange(8) % 3)
    return {name: float(measured[name]) for name in ("loss", "gradient_norm")}


def pretrain_numbers(row: str) -> Numbers:
    """A whole pretraining of one of `ROWS`."""
    out = folder() / "trained" / row
    pretrain(
        PretrainStage(size=SIZE, training=Training(**TRAINING, weight_decay=0.1, ema=0.5), **ROWS[row]),
        row=row,
        seed=0,
        revision=1,
        dataset=dataset(),
        tokenizer=tokenizer(row),
        resume=out / "resume",
        out=out,
    )
    states = {name: load_file(out / f"{name}.safetensors") for name in ("model", "ema")}
    return last_line(out) | weights_of("weights", states["model"]) | weights_of("averaged weights", states["ema"])


def baseline_numbers(method: str, recipe: Training) -> Numbers:
    """A whole pretraining of MAE or MoCo v3."""
    out = folder() / "trained" / method
    stage = BaselineStage.model_validate({"size": SIZE, method: recipe})
    folders = {"dataset": dataset(), "resume": out / "resume", "out": out}
    pretrain(stage, row=method, seed=0, revision=1, **folders)
    return last_line(out) | weights_of("weights", load_file(out / "model.safetensors"))


def mae() -> Numbers:
    """MAE's losses and encoder."""
    return baseline_numbers("mae", MAETraining(**TRAINING, decoder_width=16, decoder_heads=2, decoder_blocks=1))


def moco_v3() -> Numbers:
    """MoCo v3's losses and encoder."""
    return baseline_numbers("moco_v3", MoCoTraining(**(TRAINING | {"rate": 0.1}), hidden=16, out=8))


def probe_numbers(case: str, run_probe: Callable[[Path], None]) -> Numbers:
    """A probe: the weights of its heads, the similarities and the votes of its neighbours, and its summaries."""
    out = folder() / "probes" / case
    with instances(Heads) as heads, instances(KNN) as neighbours:
        run_probe(out)
    numbers: Numbers = {}
    for part in ("weight", "bias", "mean", "variance"):
        numbers |= summary(f"heads' {part}", torch.cat([getattr(each, part).flatten() for each in heads]))
    learned = [each.weight - each.weight[:, :1] for each in heads]  # heads of different rates start alike
    numbers |= summary("what heads' weights differ by", torch.cat([weights.flatten() for weights in learned]))
    numbers |= summary("similarities", torch.cat([torch.cat(each.similarity).flatten() for each in neighbours]))
    for name, found in read_json(out / "probe.json")["blocks"].items():
        linear = {"top1": "value", "top1_low": "low", "top1_high": "high", "held_out": "held_out", "rate": "rate"}
        numbers |= {f"{name} {key}": found["linear"][field] for key, field in linear.items()}
        numbers[f"{name} knn"] = found["knn"]["value"]
    return numbers


def probe_denoiser_numbers() -> Numbers:
    """Two blocks of a denoiser that is given noise, by features of two augmentations."""
    protocol = Probing(mode="cached", views=2, epochs=6, warmup=1, batch=32, rates=(3, 10), neighbours=5)
    stage = ProbeStage(offsets=(-1, 0), noisy=True, time=300, probing=protocol)
    folders = {"dataset": dataset(), "tokenizer": cosines(), "model": denoiser("dit")}
    return probe_numbers("denoiser", lambda out: probe(stage, row="dit", revision=1, **folders, out=out))


def probe_baseline_numbers() -> Numbers:
    """A baseline's encoder, with new augmentations in each epoch."""
    stage = ProbeStage(probing=Probing(mode="exact", epochs=6, warmup=1, batch=32, rates=(3, 10), neighbours=5))
    return probe_numbers(
        "baseline", lambda out: probe(stage, row="mae", revision=1, dataset=dataset(), model=encoder(), out=out)
    )


def probe_untrained_numbers() -> Numbers:
    """Two blocks of an untrained denoiser that is given noise."""
    protocol = Probing(mode="cached", views=2, epochs=6, warmup=1, batch=32, rates=(3, 10), neighbours=5)
    encoder = EncoderSize(width=SIZE.width, heads=SIZE.heads, blocks=SIZE.encoder_blocks)
    features = UntrainedFeatures(encoder=encoder, tokenizer=Tokenizer(dim=16), signal=0.8, noise=0.6)
    stage = UntrainedStage(features=features, offsets=(0, 1), probing=protocol)
    folders = {"dataset": dataset(), "tokenizer": cosines()}
    return probe_numbers(
        "untrained", lambda out: probe_untrained(stage, row="dit", seed=0, revision=1, **folders, out=out)
    )


def probe_untrained_baseline_numbers() -> Numbers:
    """MoCo v3's encoder before its training."""
    protocol = Probing(mode="cached", views=0, epochs=6, warmup=1, batch=32, rates=(3, 10), neighbours=5)
    encoder = EncoderSize(width=SIZE.width, heads=SIZE.heads, blocks=SIZE.encoder_blocks)
    stage = UntrainedStage(features=UntrainedFeatures(method="moco_v3", encoder=encoder), probing=protocol)
    return probe_numbers(
        "untrained moco_v3",
        lambda out: probe_untrained(stage, row="moco_v3", seed=0, revision=1, dataset=dataset(), out=out),
    )


def probe_pixels_numbers() -> Numbers:
    """Raw pixels, by centre crops alone."""
    protocol = Probing(mode="cached", views=0, epochs=40, warmup=1, batch=32, rates=(3, 10), neighbours=5)
    stage = ProbeStage(probing=protocol)
    return probe_numbers("pixels", lambda out: probe_pixels(stage, seed=0, revision=1, dataset=dataset(), out=out))


def probe_latents_numbers() -> Numbers:
    """A denoiser whose tokenizer has left the latents of the training images."""
    protocol = Probing(mode="cached", views=0, epochs=6, warmup=1, batch=32, rates=(3, 10), neighbours=5)
    folders = {"dataset": dataset(), "tokenizer": tokenizer("conv"), "model": denoiser("conv")}
    stage = ProbeStage(probing=protocol)
    return probe_numbers("latents", lambda out: probe(stage, row="conv", revision=1, **folders, out=out))


def vote_numbers() -> Numbers:
    """The classes that the neighbours of many queries vote for."""
    generator = torch.Generator().manual_seed(0)
    features, queries = (torch.randn(num, 12, generator=generator) for num in (200, 3000))
    neighbours = KNN(
        ProbeTask(CLASSES, Probing(mode="cached", rates=(1.0,), neighbours=10), torch.ones(1), 0), Encoded(queries)
    )
    neighbours.validate(Encoded(queries), torch.zeros(len(queries), dtype=torch.long))
    for part in (slice(0, 120), slice(120, 200)):
        features_part, labels = features[part], torch.arange(200)[part] % CLASSES
        neighbours.update(Encoded(features_part), labels, torch.zeros(len(labels), dtype=torch.bool))
    return summary("classes", neighbours.predictions())


def attentive_numbers() -> Numbers:
    """The weights of attentive classifiers after a few steps on random tokens."""
    tokens = torch.randn(96, 6, 16, generator=torch.Generator().manual_seed(0))
    heads = AttentiveHeads(16, CLASSES, torch.tensor([1.0, 10.0]), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for start in range(0, 96, 32):
            heads.step(tokens[start : start + 32], torch.arange(32) % CLASSES, 0.5)
    return (
        weights_of("weights", {name: matrix.detach() for name, matrix in heads.matrices.items()})
        | summary("mean", heads.mean)
        | summary("variance", heads.variance)
    )


def finetune_numbers(model: Path, tokenizer: Path | None) -> Numbers:
    """Fine-tuning with augmentation, mixing and drop paths: losses, averaged weights and accuracy."""
    out = folder() / "finetuned" / model.name
    recipe = Finetuning(**TRAINING, ema=0.5, drop_path=0.3)
    stage = FinetuneStage(layer_decay=0.75, finetuning=recipe)
    folders = {"dataset": dataset(), "model": model, "resume": out / "resume", "out": out}
    finetune(stage, row=model.name, revision=1, tokenizer=tokenizer, **folders)
    state = torch.load(out / "resume/finished.pt", weights_only=True)["weights"]
    return last_line(out) | weights_of("weights", state) | {"top1": read_json(out / "finetune.json")["top1"]}


def sample_numbers(row: str, method: Any) -> Numbers:
    """Samples of one of `ROWS`."""
    out = folder() / "sampled" / f"{row}-{method}"
    stage = SampleStage(sampling=Sampling(num=100, steps=4, method=method, batch=60))
    folders = {"dataset": dataset(), "tokenizer": cosines(SAMPLE_VARIANCES[row]), "model": denoiser(row)}
    sample(stage, row=row, revision=1, **folders, out=out)
    pixels = np.load(out / "samples.npy")
    return {"mean": float(pixels.mean()), "deviation": float(pixels.std())} | summary("pixels", pixels)


def judge_numbers() -> Numbers:
    """The Fréchet distance of samples, and the statistics of the true images."""
    out, stage, judges = folder() / "judged", JudgeStage(judging=Judging()), classifier("resnet")
    reference(stage, revision=1, dataset=dataset(), out=out / "reference", judge=judges)
    judge(stage, revision=1, samples=samples(), reference=out / "reference", out=out / "distance", judge=judges)
    distance = read_json(out / "distance/distance.json")
    statistics = np.load(out / "reference/reference.npz")
    return (
        {key: distance[key] for key in ("value", "infinite", "error")}
        | summary("mean", statistics["mean"])
        | summary("covariance", statistics["covariance"])
    )


def denoise_numbers(row: str) -> Numbers:
    """Noisy and denoised pictures, and their distance from the clean ones."""
    out = folder() / "denoised" / row
    folders = {"dataset": dataset(), "tokenizer": cosines(), "model": denoiser(row)}
    denoise(DenoiseStage(num=12, sigma=0.5), row=row, revision=1, **folders, out=out)
    pictures = {name: pixels.astype(float) for name, pixels in np.load(out / "pictures.npz").items()}
    numbers: Numbers = {}
    for name in ("noisy", "denoised"):
        numbers |= summary(name, pictures[name]) | summary(f"{name} - clean", pictures[name] - pictures["clean"])
    return numbers


CASES: dict[str, dict[str, Callable[[], Numbers]]] = {  # by the key of `revisions`
    "dataset": {"photos": photos, "folder": picture_folder},
    "tokenizer": {
        "pca": lambda: linear_tokenizer_numbers("pca"),
        "pixel": lambda: linear_tokenizer_numbers("pixel", patch=8),
        "patch_vae": lambda: linear_tokenizer_numbers("patch_vae", dim=2, without="psnr"),
        "patch_ae": lambda: linear_tokenizer_numbers("patch_ae", dim=4, without="variance"),
        "conv": conv_tokenizer_numbers,
        "conv with all losses": lambda: conv_tokenizer_numbers(perceptual=True, adversarial=True),
    },
    "classifier": {name: lambda name=name: classifier_numbers(name) for name in ("vgg", "resnet")},
    "pretrain": {row: lambda row=row: first_steps(row) for row in VARIANTS}
    | {f"whole training of {row}": lambda row=row: pretrain_numbers(row) for row in ROWS}
    | {"mae": mae, "moco_v3": moco_v3},
    "probe": {
        "denoiser": probe_denoiser_numbers,
        "cached latents": probe_latents_numbers,
        "baseline": probe_baseline_numbers,
        "untrained": probe_untrained_numbers,
        "untrained baseline": probe_untrained_baseline_numbers,
        "pixels": probe_pixels_numbers,
        "votes": vote_numbers,
        "attentive": attentive_numbers,
    },
    "finetune": {
        "denoiser": lambda: finetune_numbers(denoiser("dit"), cosines()),
        "baseline": lambda: finetune_numbers(encoder(), None),
    },
    "sample": {
        f"{row}, {method}": lambda row=row, method=method: sample_numbers(row, method)
        for row in SAMPLE_VARIANCES
        for method in ("ddpm", "ddim")
    },
    "judge": {"distance": judge_numbers},
    "denoise": {row: lambda row=row: denoise_numbers(row) for row in ("dit", "ldae")},
}
