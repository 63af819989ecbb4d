"""What each stage reads of the row and of the scale, and so what makes it run again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field

from ldae.study.base import PATCH, Architecture, Config, EncoderSize, Positive, Size
from ldae.study.checking import word
from ldae.study.measures import DEFAULT_MEASURES, MeasureName, ordered
from ldae.study.methods import BASELINES, METHODS, PUBLISHED_ENCODER
from ldae.study.recipes import LAYER_DECAY, Finetuning, Probing, Training
from ldae.study.scale import Baselines, Classifier, Convolutional, Dataset, Fitting, Judging, Sampling, Scale
from ldae.study.spec import Features, Method, Network, Noise, Objective, PublishedWeights, Recipe, Spec, Tokenizer
from ldae.study.tokenizers import TOKENIZERS, kinds_with

if TYPE_CHECKING:
    from ldae.study.stages import Key
    from ldae.study.study import Study


class StageSpec(Config):
    """What a stage depends on."""

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """What a job reads: the parts of the scale that the fields name."""
        names = [name for name in cls.model_fields if name in Scale.model_fields and name != "shared"]
        return cls(**{name: getattr(study.scale, name) for name in names})


class DatasetStage(StageSpec):
    """What preparing the images depends on, and whether all seeds share one split of them."""

    dataset: Dataset
    shared: bool = False

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """The images of the scale."""
        return cls(dataset=study.scale.dataset, shared="dataset" in study.scale.shared)


class ClassifierStage(StageSpec):
    """What training a small classifier depends on."""

    architecture: Architecture
    classifier: Classifier
    shared: bool = False  # whether that of seed 0 serves all seeds

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """The training of the classifier of an `architecture`."""
        architecture = key["architecture"]
        recipe = study.scale.classifiers[architecture]
        return cls(architecture=architecture, classifier=recipe, shared=study.shares_classifier(architecture))


class TokenizerStage(StageSpec):
    """What fitting a tokenizer depends on."""

    is_trained: ClassVar[bool] = False
    needs_vgg: ClassVar[bool] = False
    kind: Annotated[str, word([name for name, kind in TOKENIZERS.items() if not kind.trained])] = "pca"
    patch: int = PATCH  # side of a token's patch on the (resized) image
    dim: int | None = None  # None for a fit of all dimensions
    fitting: Fitting = Fitting()
    shared: bool = False  # whether that of seed 0 serves all seeds


class ConvolutionalStage(StageSpec):
    """What training a convolutional tokenizer depends on."""

    is_trained: ClassVar[bool] = True
    dim: int
    perceptual: bool = False
    adversarial: bool = False
    convolutional: Convolutional
    shared: bool = False  # whether that of seed 0 serves all seeds

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that is trained."""
        (kind,) = kinds_with("trained")
        return Tokenizer(kind=kind, dim=self.dim, perceptual=self.perceptual, adversarial=self.adversarial)

    @property
    def is_published(self) -> bool:
        """Whether published weights are taken instead of training: those of KL-f8 have 4 channels and all losses."""
        return bool(self.convolutional.published) and self.perceptual and self.adversarial and self.dim == 16

    @property
    def needs_vgg(self) -> bool:
        """Whether it is trained with the features of the study's own VGG-style network."""
        return self.perceptual and not self.is_published and self.convolutional.perceptual == "builtin"


AnyTokenizerStage = TokenizerStage | ConvolutionalStage


def tokenizer_stage(tokenizer: Tokenizer, scale: Scale, factor: float = 1.0) -> AnyTokenizerStage:
    """The fit that a row's tokenizer needs; `factor` is that of a trained one on the scale's rate."""
    shared = "tokenizer" in scale.shared
    if tokenizer.traits.trained:
        losses = {"perceptual": tokenizer.perceptual, "adversarial": tokenizer.adversarial}
        stage = ConvolutionalStage(dim=tokenizer.dim, **losses, convolutional=scale.convolutional, shared=shared)
        unused = [] if stage.is_published else ["published"]
        unused += [] if stage.perceptual else ["perceptual", "perceptual_weight", "lpips"]
        unused += [] if stage.adversarial else ["adversarial_weight", "adversarial_start", "discriminator_width"]
        recipe = scale.convolutional.without(unused)
        if factor * tokenizer.rate != 1 and not stage.is_published:
            recipe = recipe.model_copy(update={"rate": factor * tokenizer.rate * recipe.rate})
        return stage.model_copy(update={"convolutional": recipe})
    return TokenizerStage(
        kind=tokenizer.kind,
        patch=tokenizer.traits.patch(tokenizer.dim),
        dim=tokenizer.traits.fitted_dim(tokenizer.dim),
        fitting=scale.fitting,
        shared=shared,
    )


class DenoiserStage(StageSpec):
    """What a denoiser is, wherever its weights come from."""

    tokenizer: Tokenizer = Tokenizer()
    noise: Noise = Noise()
    network: Network = Network()
    objective: Objective = Objective()
    size: Size

    @property
    def method(self) -> str:
        """The name of the method."""
        return Method().name


class PretrainStage(DenoiserStage):
    """What pretraining a denoiser depends on."""

    recipe: Recipe = Recipe()
    training: Training


class AdoptStage(DenoiserStage):
    """What taking a published DiT's weights depends on."""

    weights: PublishedWeights


class BaselineStage(Baselines, StageSpec):
    """What pretraining with a method that the paper compares with, or taking its published weights, depends on.

    One of the methods has its recipe, under its name.
    """

    size: Size
    weights: PublishedWeights | None = None

    @property
    def method(self) -> str:
        """The name of the method; only one has published encoders."""
        return next((name for name in BASELINES if getattr(self, name) is not None), PUBLISHED_ENCODER)

    @property
    def training(self) -> Training:
        """The recipe of the method; a `ValueError` for published weights, which have none."""
        recipe: Training | None = getattr(self, self.method)
        if recipe is None:
            raise ValueError("published weights are not trained here, and have no recipe")
        return recipe


PretrainingStage = PretrainStage | AdoptStage | BaselineStage


def pretraining_stage(row: Spec, scale: Scale, factor: float = 1.0) -> PretrainingStage:
    """The pretraining of a row by its method, or its published weights; `factor` is that on the scale's rate."""
    size, weights = scale.size_of(row), row.method.weights
    if not row.method.traits.denoises:
        own = {"weights": weights} if weights is not None else {row.method.name: scale.training_of(row, factor)}
        return BaselineStage.model_validate({"size": size, **own})
    parts: dict[str, Any] = {part: getattr(row, part) for part in ("tokenizer", "noise", "network", "objective")}
    if weights is not None:  # which have a size of their own
        parts["network"] = row.network.model_copy(update={"size": Network().size})
        return AdoptStage.model_validate({**parts, "size": size, "weights": weights})
    recipe = Recipe(crop=row.recipe.crop, length=row.recipe.length)
    training = scale.training_of(row, factor)
    return PretrainStage.model_validate({**parts, "size": size, "recipe": recipe, "training": training})


class PixelsStage(StageSpec):
    """What probing depends on, beside the features."""

    measures: tuple[MeasureName, ...] = DEFAULT_MEASURES
    probing: Probing


class ProbeStage(PixelsStage):
    """What the probe of a trained network depends on, beside the network."""

    offsets: tuple[int, ...] = (0,)  # the blocks, which are probed in one pass over the images
    time: int = 10
    noisy: bool = False

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """The probe of a `row`; it serves all rows that differ only in the block."""
        features, probe = study.variants[key["row"]].spec.features, study.probes[key["row"]]
        offsets = {study.variants[row].spec.features.offset for row, other in study.probes.items() if other == probe}
        return cls(
            offsets=tuple(sorted(offsets)),
            time=features.time,
            noisy=features.noisy,
            measures=study.measures[probe],
            probing=study.scale.probing,
        )


class UntrainedFeatures(Config):
    """What the features of an untrained network depend on: no objective, and nothing behind the encoder.

    While the conditioning is untrained, it has no effect. So the time step only says how strong noise on the input is.
    """

    method: Annotated[str, word(METHODS)] = Method().name
    encoder: EncoderSize
    has_class_token: bool = False  # as published encoders have
    tokenizer: Tokenizer = Tokenizer()  # this and the rest: of a denoiser
    network: Network = Network()
    signal: float = 1.0  # the strengths of the signal and of the noise in the probed latents
    noise: float = 0.0

    @classmethod
    def of(cls, stage: PretrainingStage, features: Features) -> Self:
        """What features of the network that a pretraining starts from depend on."""
        size = stage.size
        encoder = EncoderSize(width=size.width, heads=size.heads, blocks=size.encoder_blocks)
        if isinstance(stage, BaselineStage):
            return cls(method=stage.method, encoder=encoder, has_class_token=stage.weights is not None)
        signal, noise = stage.noise.levels.at(features.time) if features.noisy else (1.0, 0.0)
        unused = {name: getattr(Network(), name) for name in ("size", "labels", "output")}
        network = stage.network.model_copy(update=unused)
        return cls(encoder=encoder, tokenizer=stage.tokenizer, network=network, signal=signal, noise=noise)

    @property
    def is_clean(self) -> bool:
        """Whether the latents are probed as they are, without noise."""
        return (self.signal, self.noise) == (1, 0)


class UntrainedStage(PixelsStage):
    """What the probe of an untrained network depends on."""

    features: UntrainedFeatures
    offsets: tuple[int, ...] = (0,)

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """The probe of the untrained network of a `row`; it serves all rows with the same network and features."""
        first = study.untrained[key["row"]]
        rows = [row for row, other in study.untrained.items() if other == first]
        return cls(
            features=study.untrained_features(first),
            offsets=tuple(sorted({study.variants[row].spec.features.offset for row in rows})),
            measures=ordered(name for row in rows for name in study.measures[study.probes[row]]),
            probing=study.scale.probing,
        )


class FinetuneStage(StageSpec):
    """What fine-tuning depends on, beside the encoder that it starts from."""

    offset: int = 0
    time: int = 10
    layer_decay: float
    finetuning: Finetuning

    @classmethod
    def for_job(cls, study: Study, key: Key) -> Self:
        """The fine-tuning of a `row`."""
        return cls.of(study.variants[key["row"]].spec, study.scale)

    @classmethod
    def of(cls, row: Spec, scale: Scale) -> Self:
        """The fine-tuning of a row; of the layer decays it reads only that of its size."""
        recipe = scale.finetuning
        return cls(
            offset=row.features.offset,
            time=row.features.time,
            layer_decay=recipe.layer_decay[row.network.size],
            finetuning=recipe.model_copy(update={"layer_decay": LAYER_DECAY}),
        )


class SampleStage(StageSpec):
    """What sampling depends on, beside the network."""

    sampling: Sampling


class JudgeStage(StageSpec):
    """What comparing samples with real images depends on, beside the samples and a classifier's features."""

    judging: Judging


class DenoiseStage(StageSpec):
    """What denoising pictures of a row depends on, beside its network."""

    num: Positive = 12  # validation images
    sigma: Annotated[float, Field(gt=0)] = math.sqrt(1 / 3)  # the level of the paper's Fig. 7
