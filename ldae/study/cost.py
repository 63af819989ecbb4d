"""The arithmetic and the disk space of each stage, by formula; no torch.

Functions count multiply-adds (MACs) of one image; FLOPs are twice as many.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ldae.study.base import NUM_TIMES, PATCH, PATCH_DIM
from ldae.study.graph import Job
from ldae.study.methods import BASELINES, block_macs
from ldae.study.scale import Classifier
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DenoiserStage,
    FinetuneStage,
    PretrainStage,
    ProbeStage,
    UntrainedStage,
)
from ldae.study.stages import Cost, Key
from ldae.study.study import Study

VAE_MULTIPLES = (1, 2, 4, 4)  # of the convolutional tokenizer's width, level by level
INCEPTION_MACS = 5_730_000_000  # of Inception v3 at 299 pixels
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions of its stages


def transformer_macs(
    *, tokens: int, width: int, blocks: int, in_dim: int, out_dim: int, conditioning: int, frequencies: int = 256
) -> int:
    """Multiply-adds of one image's forward pass through the Diffusion Transformer, conditioning included.

    The published figures of DiT and timm, there called FLOPs, are multiply-adds too.
    """
    time = frequencies * conditioning + conditioning**2
    modulation = conditioning * width * (6 * blocks + 2)
    return (
        blocks * block_macs(tokens, width)
        + tokens * width * (in_dim + out_dim)
        + (time + modulation if conditioning else 0)
    )


def transformer_parameters(*, width: int, blocks: int, in_dim: int, out_dim: int, conditioning: int) -> int:
    """Weights of the Diffusion Transformer; the arguments are those of `transformer_macs`."""
    block = 12 * width**2 + 9 * width + 6 * width * (conditioning + 1)
    ends = (in_dim + 1) * width + 2 * width * (conditioning + 1) + (width + 1) * out_dim
    return blocks * block + ends + (256 + 1) * conditioning + (conditioning + 1) * conditioning


def classifier_vit_macs(*, tokens: int, width: int, blocks: int, classes: int) -> int:
    """Multiply-adds of one image through a plain encoder and a linear classifier on the mean of its tokens."""
    return blocks * block_macs(tokens, width) + tokens * width * PATCH_DIM + width * classes


def pretrain_macs(stage: DenoiserStage, image_size: int) -> int:
    """A forward pass through a row's network, without its tokenizer."""
    size, dim = stage.size, stage.tokenizer.dim
    return transformer_macs(
        tokens=(image_size // PATCH) ** 2,
        width=size.width,
        blocks=size.encoder_blocks + size.decoder_blocks,
        in_dim=PATCH_DIM if stage.network.input == "image" else dim,
        out_dim=PATCH_DIM if stage.network.output == "image" else dim,
        conditioning=round(size.width * size.conditioning),
    )


def baseline_macs(stage: BaselineStage, image_size: int) -> int:
    """What one image goes forward through with gradients; what has none counts a third."""
    tokens = (image_size // PATCH) ** 2
    return BASELINES[stage.method].macs(tokens, stage.size.width, stage.size.encoder_blocks, stage.training)


def conv_macs(in_channels: int, out_channels: int, side: int, kernel: int = 3) -> int:
    """A convolution whose output is `side` pixels high and wide."""
    return in_channels * out_channels * kernel**2 * side**2


def residual_macs(in_channels: int, out_channels: int, side: int) -> int:
    """Two convolutions, and a third where the shortcut must change the number of channels."""
    shortcut = conv_macs(in_channels, out_channels, side, 1) if in_channels != out_channels else 0
    return conv_macs(in_channels, out_channels, side) + conv_macs(out_channels, out_channels, side) + shortcut


def autoencoder_macs(*, size: int, width: int, blocks: int, channels: int) -> tuple[int, int]:
    """Encoding and decoding with the convolutional tokenizer; the arguments are those of its `Autoencoder`."""
    widths = [width * multiple for multiple in VAE_MULTIPLES]
    last, small = widths[-1], size // 8
    middle = 2 * residual_macs(last, last, small) + 4 * conv_macs(last, last, small, 1) + 2 * small**4 * last

    def levels(widths: list[int], side: int, depth: int, *, halve: bool) -> int:
        total = 0
        for level, (before, after) in enumerate(pairwise(widths)):
            total += residual_macs(before, after, side) + (depth - 1) * residual_macs(after, after, side)
            if level < len(widths) - 2:
                side = side // 2 if halve else 2 * side
                total += conv_macs(after, after, side)
        return total

    encode = conv_macs(3, width, size) + levels([width, *widths], size, blocks, halve=True) + middle
    encode += conv_macs(last, 2 * channels, small) + conv_macs(2 * channels, 2 * channels, small, 1)
    decode = conv_macs(channels, channels, small, 1) + conv_macs(channels, last, small) + middle
    decode += levels([last, *reversed(widths)], small, blocks + 1, halve=False) + conv_macs(width, 3, size)
    return encode, decode


def discriminator_macs(size: int, width: int) -> int:
    """The patch discriminator."""
    sides = (size // 2, size // 4, size // 8, size // 8 - 1, size // 8 - 2)
    channels = (3, width, 2 * width, 4 * width, 8 * width, 1)
    return sum(conv_macs(a, b, side, 4) for (a, b), side in zip(pairwise(channels), sides, strict=True))


def vgg_macs(size: int, stages: tuple[tuple[int, int], ...]) -> int:
    """The convolutions of a VGG, stage by stage: their channels, and how many there are."""
    total, before = 0, 3
    for level, (channels, depth) in enumerate(stages):
        total += conv_macs(before, channels, size >> level) + (depth - 1) * conv_macs(channels, channels, size >> level)
        before = channels
    return total


def small_vgg_macs(size: int, width: int) -> int:
    """The study's own network of the perceptual loss."""
    return vgg_macs(size, tuple((factor * width, 1) for factor in (1, 2, 4, 8, 8)))


def small_resnet_macs(size: int, width: int) -> int:
    """The study's own judge of samples."""
    widths = (width, width, 2 * width, 4 * width, 8 * width)
    sides = (size // 2, size // 4, size // 8, size // 16)
    return conv_macs(3, width, size // 2) + sum(
        residual_macs(a, b, side) for (a, b), side in zip(pairwise(widths), sides, strict=True)
    )


def classifier_macs(architecture: str, classifier: Classifier, size: int) -> int:
    """A small classifier."""
    return {"vgg": small_vgg_macs, "resnet": small_resnet_macs}[architecture](size, classifier.width)


def tokenizer_training_macs(stage: ConvolutionalStage, vgg: Classifier | None, size: int) -> int:
    """A training step of a convolutional tokenizer, for one image and with all gradients."""
    recipe = stage.convolutional
    macs = 3 * sum(autoencoder_macs(size=size, width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4))
    if stage.perceptual:  # both images forward, one of them back
        own = small_vgg_macs(size, vgg.width) if recipe.perceptual == "builtin" and vgg else vgg_macs(size, VGG16)
        macs += 3 * own
    if stage.adversarial:  # forward and twice back to the decoder, then a step of its own on two images
        late = 1 - recipe.adversarial_start
        macs += round(9 * late * discriminator_macs(size, recipe.discriminator_width))
    return macs


class DataSize(NamedTuple):
    """The numbers of images and classes of a data set."""

    train: int
    val: int
    classes: int


class Costs:
    """The costs of a study's jobs at its scale; the entry of a stage names its method."""

    def __init__(self, study: Study, data: DataSize) -> None:
        self.study: Study = study
        self.data: DataSize = data
        self.size = study.scale.dataset.size  # of images, in pixels
        self.tokens = (self.size // PATCH) ** 2

    def of(self, job: Job) -> Cost:
        """The cost of a job, by the entry of its stage; tables, figures and pages cost nothing worth planning."""
        return job.entry.cost(self, job.key) if job.entry is not None else Cost()

    def dataset(self) -> Cost:
        """Images are stored as bytes, at the stored size."""
        dataset = self.study.scale.dataset
        return Cost(disk=(self.data.train + self.data.val) * dataset.draws * 3.0 * dataset.stored**2)

    def classifier(self, key: Key) -> Cost:
        """Three forward passes' worth for each image of each step."""
        stage = ClassifierStage.for_job(self.study, key)
        recipe = stage.classifier
        return Cost(6.0 * recipe.steps * recipe.batch * classifier_macs(stage.architecture, recipe, self.size))

    def tokenizer(self, name: str) -> Cost:
        """A linear tokenizer needs its covariance; a convolutional one is trained, and encodes all training images."""
        stage = self.study.tokenizers[name]
        if not isinstance(stage, ConvolutionalStage):
            return Cost(2.0 * stage.fitting.patches * (3 * stage.patch**2) ** 2)
        recipe, vgg = stage.convolutional, self.study.scale.classifiers.get("vgg")
        images = 0 if stage.is_published else recipe.steps * recipe.batch
        macs = images * tokenizer_training_macs(stage, vgg, self.size) + 2 * self.data.train * self._encoding(
            stage.tokenizer
        )
        return Cost(2.0 * macs, disk=self.data.train * 2.0 * self.tokens * stage.dim * 2)

    def pretraining(self, row: str) -> Cost:
        """Disk holds each weight as float32 twice, among the run's own files and as the result, and so its average."""
        study, stage = self.study, self.study.pretraining(row)
        macs = 0
        if isinstance(stage, PretrainStage):
            recipe = stage.recipe
            images = max(1, round(recipe.length * stage.training.total_steps(self.data.train))) * stage.training.batch
            encoding = self._encoding(stage.tokenizer) if recipe.crop == "random" else 0
            macs = images * (3 * pretrain_macs(stage, self.size) + encoding)
        elif isinstance(stage, BaselineStage) and not study.is_published(row):
            images = stage.training.total_steps(self.data.train) * stage.training.batch
            macs = 3 * images * baseline_macs(stage, self.size)
        size = stage.size
        weights = transformer_parameters(
            width=size.width,
            blocks=size.encoder_blocks + (size.decoder_blocks if study.is_denoiser(row) else 0),
            in_dim=PATCH_DIM,
            out_dim=PATCH_DIM,
            conditioning=round(size.width * size.conditioning),
        )
        copies = 2 if isinstance(stage, PretrainStage) else 1
        return Cost(2.0 * macs, 2.0 * copies * 4 * weights)

    def probe(self, key: Key) -> Cost:
        """The probe of a trained row."""
        return self._probe(ProbeStage.for_job(self.study, key), key["row"])

    def untrained_probe(self, key: Key) -> Cost:
        """The probe of the untrained network of a row."""
        return self._probe(UntrainedStage.for_job(self.study, key), key["row"])

    def _probe(self, stage: ProbeStage | UntrainedStage, row: str) -> Cost:
        """Each image goes through a row's tokenizer and encoder; then linear classifiers of all rates train."""
        study, probing, size = self.study, stage.probing, self.study.pretraining(row).size
        encoder = transformer_macs(
            tokens=self.tokens,
            width=size.width,
            blocks=size.encoder_blocks + max(stage.offsets),
            in_dim=PATCH_DIM,
            out_dim=0,
            conditioning=0,
        )
        augmented = (probing.views if probing.mode == "cached" else probing.epochs) * self.data.train
        macs = encoder * (augmented + self.data.train + self.data.val)
        if study.is_denoiser(row):
            tokenizer = study.variants[row].spec.tokenizer
            centre_crops = 0 if tokenizer.traits.trained else self.data.train  # their latents are cached
            macs += (augmented + self.data.val + centre_crops) * self._encoding(tokenizer)
        heads = 2 * len(stage.offsets) * len(probing.rates) * size.width * self.data.classes
        return Cost(2.0 * (macs + 2 * heads * probing.epochs * self.data.train))

    def finetuning(self, key: Key) -> Cost:
        """Three forward passes' worth for each training image; the weights and their average stay on the disk."""
        stage = FinetuneStage.for_job(self.study, key)
        size, classes = self.study.pretraining(self.study.runs[key["row"]]).size, self.data.classes
        blocks = size.encoder_blocks + stage.offset
        macs = classifier_vit_macs(tokens=self.tokens, width=size.width, blocks=blocks, classes=classes)
        images = 3 * stage.finetuning.total_steps(self.data.train) * stage.finetuning.batch + self.data.val
        weights = transformer_parameters(
            width=size.width, blocks=blocks, in_dim=PATCH_DIM, out_dim=classes, conditioning=0
        )
        return Cost(2.0 * images * macs, 2.0 * 4 * weights)

    def sampling(self, row: str) -> Cost:
        """A forward pass for each image and step; there are no more steps than times."""
        sampling, stage = self.study.scale.sampling, self.study.pretraining(row)
        assert isinstance(stage, DenoiserStage)
        steps = min(sampling.steps, NUM_TIMES)
        return Cost(2.0 * sampling.num * steps * pretrain_macs(stage, self.size), sampling.num * 3.0 * self.size**2)

    def judging(self, images: int) -> Cost:
        """The features of some images."""
        scale = self.study.scale
        if scale.judging.features == "builtin":
            return Cost(2.0 * images * classifier_macs("resnet", scale.classifiers["resnet"], self.size))
        return Cost(2.0 * images * INCEPTION_MACS)

    def _encoding(self, tokenizer: Tokenizer) -> int:
        """Multiply-adds of tokenizing an image."""
        stage = self.study.tokenizers[tokenizer.name]
        if not isinstance(stage, ConvolutionalStage):
            return self.tokens * PATCH_DIM * tokenizer.dim
        recipe = stage.convolutional
        return autoencoder_macs(size=self.size, width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4)[0]
