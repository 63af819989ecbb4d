"""How fast each stage's inner loop goes on this device, and which share that is of a large matrix product's rate.

    python -m benchmarks.stages.loops imagenet pretrain:pca probe:pca

The networks and batches are the scale's own; the images are random, and already on the device. Without names all are
measured: training a row on latents, one on images, MAE, MoCo v3, a convolutional tokenizer, caching its latents,
probing, sampling, fine-tuning.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from benchmarks.comparison import save, seconds
from benchmarks.training.training_step import matmul_rate
from ldae.data.crops import probe_crop
from ldae.data.prepared import to_float
from ldae.parts import tokenizers
from ldae.parts.classifiers import SmallVGG
from ldae.parts.denoiser import Denoiser
from ldae.parts.diffusion import Process
from ldae.parts.folding import fold
from ldae.parts.loading import build_baseline
from ldae.parts.methods.mae import MAE
from ldae.parts.methods.moco_v3 import MoCo
from ldae.parts.tokenizers import pca
from ldae.parts.tokenizers.conv import Autoencoder, ConvTokenizer
from ldae.parts.tokenizers.losses import Perceptual
from ldae.runtime.device import compile_blocks, pick_device
from ldae.runtime.randomness import Randomness
from ldae.stages.finetune import finetuning_task, vision_transformer
from ldae.stages.pretrain import baseline_task, denoiser_task
from ldae.stages.sample import draw
from ldae.stages.train_tokenizer import AutoencoderTask
from ldae.study.base import PATCH, PATCH_DIM
from ldae.study.cost import (
    autoencoder_macs,
    baseline_macs,
    block_macs,
    classifier_vit_macs,
    pretrain_macs,
    tokenizer_training_macs,
)
from ldae.study.stage_specs import BaselineStage, ConvolutionalStage, DenoiserStage, FinetuneStage
from ldae.study.study import Study
from ldae.training.loop import Task, TrainingRun

ROOT = Path(__file__).parents[2]
CLASSES = {"imagenet": 1000}
REPETITIONS = 5
SAMPLING_STEPS = 10  # of which the rate follows: each of a sampling's steps costs the same


class Loop(NamedTuple):
    """A stage's inner loop: an action on so many images, and what each of them costs."""

    action: Callable[[], object]
    images: int
    flops: float  # of an image


class Stages:
    """The loops of a scale, on this device."""

    def __init__(self, scale: str) -> None:
        self.study = Study.load(ROOT, {"scale": scale})
        self.classes = CLASSES.get(scale, 20)
        self.size = self.study.scale.dataset.size
        self.device = pick_device()
        self.randomness = Randomness(self.device, 0)

    def images(self, num: int) -> Tensor:
        """Random uint8 images (num, 3, S, S)."""
        return torch.randint(256, (num, 3, self.size, self.size), dtype=torch.uint8, device=self.device)

    def denoiser(self, row: str) -> tuple[DenoiserStage, Denoiser]:
        """A row's network with random weights that let everything through."""
        stage = cast(DenoiserStage, self.study.pretraining(row))
        fitted = pca.fit([torch.randn(4000, PATCH_DIM, generator=torch.Generator().manual_seed(0))])
        denoiser = Denoiser(stage, fitted, image_size=self.size, classes=self.classes)
        denoiser.network.open_gates()
        return stage, denoiser.to(self.device)

    def step(self, task: Task, batch: int, flops: float) -> Loop:
        """A training step on a batch."""
        run = TrainingRun(task, title="a step", seed=0, total=10_000, batch=batch, log_every=50, identity="")
        images, labels = self.images(batch), torch.randint(self.classes, (batch,), device=self.device)
        return Loop(lambda: run.update(images, labels), batch, flops)

    def pretrain(self, row: str) -> Loop:
        """Training a row or a baseline; three passes of its network's arithmetic."""
        stage = self.study.pretraining(row)
        if isinstance(stage, BaselineStage):
            module = cast(MAE | MoCo, build_baseline(stage, seed=0, image_size=self.size).to(self.device))
            task = baseline_task(module, stage, self.size)
            compile_blocks(module.layers, self.device)
            batch = min(stage.training.batch, 256 if stage.method == "mae" else 64)  # a full batch needs several GPUs
            return self.step(task, batch, 6 * baseline_macs(stage, self.size))
        trained, denoiser = self.denoiser(row)
        task = denoiser_task(denoiser, cast(Any, trained), self.study.scale.resources.micro_batch or 0)
        compile_blocks(denoiser.network.layers, self.device)
        return self.step(task, self.study.scale.training.batch, 6 * pretrain_macs(trained, self.size))

    def tokenizer(self, row: str) -> Loop:
        """Training the convolutional tokenizer of a row, with all its losses from the first step."""
        stage = self.study.tokenizers[self.study.variants[row].spec.tokenizer.name]
        assert isinstance(stage, ConvolutionalStage)
        recipe = stage.convolutional.model_copy(update={"adversarial_start": 0.0})
        stage = stage.model_copy(update={"convolutional": recipe})
        vgg = self.study.scale.classifiers["vgg"]
        perceptual = Perceptual(SmallVGG(self.classes, vgg.width).stages).to(self.device)
        network = Autoencoder(width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4).to(self.device)
        task = AutoencoderTask(network, stage, perceptual if stage.perceptual else None)
        batch = min(recipe.batch, 16)
        return self.step(task, batch, 2 * tokenizer_training_macs(stage, vgg, self.size))

    @torch.inference_mode()
    def cache(self, row: str) -> Loop:
        """Encoding images with the convolutional tokenizer of a row."""
        spec = self.study.variants[row].spec.tokenizer
        recipe = self.study.scale.convolutional
        channels = spec.dim // 4
        network = Autoencoder(width=recipe.width, blocks=recipe.blocks, channels=channels)
        fitted = {f"autoencoder.{name}": tensor for name, tensor in network.state_dict().items()}
        fitted |= {"mean": torch.zeros(spec.dim), "variance": torch.ones(spec.dim)}
        tokenizer = cast(ConvTokenizer, tokenizers.build(spec, fitted)).to(self.device)
        images = to_float(self.images(100))
        macs = autoencoder_macs(size=self.size, width=recipe.width, blocks=recipe.blocks, channels=channels)[0]

        @torch.inference_mode()
        def encode() -> Tensor:
            return tokenizer.raw(images)

        return Loop(encode, len(images), 2 * macs)

    def probe(self, row: str) -> Loop:
        """Cropping and encoding images for a probe; a forward pass up to the probed block."""
        stage, denoiser = self.denoiser(row)
        compile_blocks(denoiser.network.layers, self.device)
        images = self.images(self.study.scale.probing.extract_batch)
        tokens, width = (self.size // PATCH) ** 2, stage.size.width

        @torch.inference_mode()
        def extract() -> list[Tensor]:
            cropped = probe_crop(to_float(images), self.randomness)
            return [a.mean(1) for a in denoiser.features(denoiser.encode(cropped), time=10)]

        return Loop(extract, len(images), 2 * stage.size.encoder_blocks * block_macs(tokens, width))

    def sample(self, row: str) -> Loop:
        """Steps of a sampling; counted are images times steps."""
        stage, denoiser = self.denoiser(row)
        compile_blocks(denoiser.network.layers, self.device)
        sampling = self.study.scale.sampling.model_copy(update={"steps": SAMPLING_STEPS})
        process = Process.of(stage.noise, SAMPLING_STEPS)
        labels = torch.zeros(sampling.batch, dtype=torch.long, device=self.device)
        return Loop(
            lambda: draw(denoiser, sampling, process, labels, seed=0, start=0),
            sampling.batch * SAMPLING_STEPS,
            2 * pretrain_macs(stage, self.size),
        )

    def finetune(self, row: str) -> Loop:
        """Fine-tuning a row's encoder."""
        tuning = FinetuneStage.for_job(self.study, {"row": row})
        _, denoiser = self.denoiser(row)
        folded = fold(denoiser.cpu(), time=10, offset=0)
        network = vision_transformer(folded, classes=self.classes, seed=0).to(self.device)
        micro = self.study.scale.resources.micro_batch or 0
        task = finetuning_task(network, tuning, classes=self.classes, micro_batch=micro)
        macs = classifier_vit_macs(tokens=folded.grid**2, width=folded.width, blocks=folded.depth, classes=self.classes)
        return self.step(task, tuning.finetuning.batch, 6 * macs)


LOOPS = (
    *("pretrain:pca", "pretrain:ldae", "pretrain:ldae_l", "pretrain:mae_l", "pretrain:moco_v3_l"),
    *("tokenizer:dit", "cache:dit", "probe:pca", "probe:ldae", "sample:pca", "finetune:ldae"),
)


def speed(loop: Loop, peak: float) -> dict[str, Any]:
    """The median rate of some repetitions, after two to warm up, and its share of `peak` FLOP a second."""
    loop.action(), loop.action()
    rate = loop.images / statistics.median(seconds(loop.action) for _ in range(REPETITIONS))
    return {
        "images_per_second": round(rate, 1),
        "tflop_per_second": round(rate * loop.flops / 1e12, 3),
        "share_of_a_matmul": round(rate * loop.flops / peak, 3),
    }


def rates(scale: str, names: list[str], peak: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each of the loops does, one after the other."""
    stages = Stages(scale)
    for name in names:
        kind, _, row = name.partition(":")
        if stages.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            loop = getattr(stages, kind)(row)
            report = speed(loop, peak)
            del loop
        except Exception as error:  # one that does not fit the card, say, should not cost the others
            report = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        if stages.device.type == "cuda":
            report["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 1)
        print(name, report, flush=True)
        yield name, report
        torch.compiler.reset()
        if stages.device.type == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """Measures the loops that are named."""
    scale = sys.argv[1] if len(sys.argv) > 1 else "laptop"
    torch.set_num_threads(1)
    peak = matmul_rate(pick_device())
    loops = dict(rates(scale, sys.argv[2:] or list(LOOPS), peak))
    report = {"what": f"inner loops at {scale} scale", "tflop_per_second_of_a_matmul": round(peak / 1e12, 3)}
    save(f"stages-{scale}", report | {"loops": loops})


if __name__ == "__main__":
    main()
