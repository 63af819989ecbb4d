"""A row of the study: the parts of the method, its pretraining, and the activations that are probed.

The defaults are the row `pca`, the baseline of Table 3.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ldae.study.base import NUM_TIMES, PATCH_DIM, Config, ExternalFile, Fraction, Positive, Size, SizeName, Width
from ldae.study.checking import alternatives, word
from ldae.study.methods import METHODS, MethodTraits
from ldae.study.recipes import Training
from ldae.study.schedules import SCHEDULES, TIMES, Levels
from ldae.study.tokenizers import TOKENIZERS, TokenizerKind, kinds_with

Multiple = Annotated[float, Field(gt=0)]


class Tokenizer(Config):
    """How an image becomes tokens (paper, Sec. 4.2)."""

    kind: Annotated[str, word(TOKENIZERS)] = "pca"
    dim: Annotated[int, Field(ge=1, le=PATCH_DIM)] = 32
    # Losses of a trained tokenizer beside reconstruction and KL divergence: with both it is latent diffusion's VQGAN.
    perceptual: bool = False
    adversarial: bool = False
    # The paper leaves the scaling of its latents open. `global` divides all dimensions by one number, as latent
    # diffusion does; `dimension` gives each of them unit variance, which for PCA is whitening. docs/deviations.md has
    # what both gave. `published` multiplies by 0.18215, as is done with the latents of Stable Diffusion's VAE.
    scale: Literal["global", "dimension", "published"] = "global"
    rate: Multiple = 1.0  # of a trained tokenizer, as a multiple of its tuned rate

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if obstacle := self.traits.dim_obstacle(self.dim):
            raise ValueError(f"tokenizer.dim: found {self.dim}; {obstacle}")
        if not self.traits.trained:
            possible = alternatives(kinds_with("trained"))
            if self.losses:
                raise ValueError(
                    f"tokenizer.{self.losses[0]}: {self.kind!r} has no such loss; it needs tokenizer.kind {possible}"
                )
            if self.scale == "published":
                raise ValueError(f"tokenizer.scale: 'published' needs tokenizer.kind {possible}, found {self.kind!r}")
            if self.rate != 1:
                raise ValueError(f"tokenizer.rate: {self.kind!r} has none; it needs tokenizer.kind {possible}")
        return self

    @property
    def traits(self) -> TokenizerKind:
        """What this kind of tokenizer can do."""
        return TOKENIZERS[self.kind]

    @property
    def losses(self) -> list[str]:
        """The losses of its training beside reconstruction and KL divergence."""
        return [loss for loss in ("perceptual", "adversarial") if getattr(self, loss)]

    @property
    def name(self) -> str:
        """The name of the fit that this tokenizer needs: one PCA serves every `dim`, and a fit serves each `scale`."""
        rate = [f"rate{self.rate!r}".removesuffix(".0")] if self.rate != 1 else []
        return self.kind if self.traits.one_fit else "-".join([self.kind, str(self.dim), *self.losses, *rate])

    @property
    def at_scale_rate(self) -> Tokenizer:
        """The same tokenizer without a `rate` of its own."""
        return self.model_copy(update={"rate": 1.0})


class Noise(Config):
    """How strongly the latents are corrupted at each time step (paper, Sec. 4.1, 4.3 and 4.4)."""

    schedule: Annotated[str, word(SCHEDULES)] = "gamma2"
    sigma: Annotated[float, Field(gt=0)] = math.sqrt(1 / 3)  # the level of `single`, without effect on other schedules
    times: Annotated[str, word(TIMES)] = "uniform"  # how training draws its time steps

    @property
    def levels(self) -> Levels:
        """The strengths of signal and noise at each time step."""
        return SCHEDULES[self.schedule](self.sigma)

    @property
    def has_sigma(self) -> bool:
        """Whether the levels of this schedule depend on `sigma`."""
        return self.levels != SCHEDULES[self.schedule](2 * self.sigma)


class Network(Config):
    """What the Diffusion Transformer is given and what it returns (paper, Sec. 4.1 and 4.3)."""

    size: SizeName = "half-L"  # of the encoder, as the scale defines it; the decoder's is the same
    labels: bool = False
    input: Literal["latent", "image"] = "latent"
    output: Literal["latent", "image"] = "latent"


PREDICTIONS = ("noise", "clean")  # `ldae.parts.objective` computes these three, under the same names
WEIGHTS = ("uniform", "signal")
ERRORS = ("squared",)
ON_IMAGES = {"predict": "clean", "error": "squared"}  # the only ones of a network with image output (eq. 4)


class Objective(Config):
    """What is predicted, and how its errors are measured and weighted (paper, Sec. 4.3)."""

    predict: Annotated[str, word(PREDICTIONS)] = "noise"
    weight: Annotated[str, word(WEIGHTS)] = "uniform"
    error: Annotated[str, word(ERRORS)] = "squared"
    # Eq. 4's weight of the components that the tokenizer drops (i > d). At 0 the image to predict is the projection
    # V^T V x; above 0 it is the original image, whose dropped part counts this much. The paper's value is 0.1.
    tail: Fraction = 0.0
    # The units in which an image residual's components are weighed: `pixel`, or `whitened`, where component i is
    # divided by its standard deviation (and the dropped ones by the d-th's). See Tokenizer.scale for the choice.
    units: Literal["pixel", "whitened"] = "pixel"


class Recipe(Config):
    """How a row's pretraining differs from the scale's recipe (paper, Sec. 5).

    MAE and MoCo v3 have crops and lengths of their own. Fine-tuning follows the scale's recipe for it, in every row.
    """

    crop: Literal["center", "random"] = "center"  # `random`: random resized crops, at least a fifth of the area
    # Multiples of what the scale says. The rate is per 256 images, so that a larger batch has a larger peak rate. The
    # length is in images: with twice the batch a training of the same length has half the steps.
    length: Multiple = 1.0
    rate: Multiple = 1.0
    batch: Multiple = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None  # None: what the scale says

    def applied(self, training: Training, factor: float = 1.0) -> Training:
        """The scale's recipe with this row's rate, batch and weight decay.

        `factor` is the row's tuned factor on the scale's rate, which `rate` multiplies. `length` is applied by
        `ldae.stages.pretrain`, because it also shortens the warm-up.

        Raises a `ValueError` for a batch that is not a whole number.
        """
        changes: dict[str, Any] = {}
        if factor * self.rate != 1:
            changes["rate"] = factor * self.rate * training.rate
        if self.batch != 1:
            batch = self.batch * training.batch
            if abs(batch - round(batch)) > 1e-6 * batch or batch < 0.5:
                raise ValueError(
                    f"recipe.batch: {self.batch:g} times the scale's {training.batch} images is {batch:g}; "
                    "give a multiple that makes a whole number"
                )
            changes["batch"] = round(batch)
            if training.steps is not None:
                changes["steps"] = max(1, round(training.steps / self.batch))
        if self.weight_decay is not None:
            changes["weight_decay"] = self.weight_decay
        return training.model_copy(update=changes)


class PublishedWeights(ExternalFile, Width):
    """Published weights that a row takes instead of training: a DiT's, or those of an encoder that MAE has trained.

    The sizes here determine the shapes that the file must have, except for `heads`, which no shape shows.
    """

    blocks: Positive
    classes: Positive = 1000  # the number of a DiT's labels

    def size(self, *, denoises: bool) -> Size:
        """The network's size: the first half of a DiT's blocks are the encoder, its conditioning has the full width."""
        encoder = max(1, self.blocks // 2) if denoises else self.blocks
        return Size(
            width=self.width,
            heads=self.heads,
            encoder_blocks=encoder,
            decoder_blocks=max(1, self.blocks - encoder),
            conditioning=1.0,
        )


class Method(Config):
    """What pretrains the encoder: a denoiser of the parts above, or a method that the paper compares with (Sec. 5)."""

    name: Annotated[str, word(METHODS)] = "denoiser"
    weights: PublishedWeights | None = None  # taken instead of training

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.weights is not None and not self.traits.has_published_weights:
            published = [name for name, method in METHODS.items() if method.has_published_weights]
            raise ValueError(f"method.weights: published weights are read for method.name {alternatives(published)}")
        return self

    @property
    def traits(self) -> MethodTraits:
        """What this method can do."""
        return METHODS[self.name]


class Features(Config):
    """Which activations are the representation (paper, App. A)."""

    offset: int = 0  # the probed block, relative to the encoder's last: +1 is the decoder's first
    time: Annotated[int, Field(ge=0, lt=NUM_TIMES)] = 10  # the time step that the conditioning is fixed to
    noisy: bool = False  # whether the images are given the noise of that step


PUBLISHED_DIT: dict[str, dict[str, Any]] = {  # the settings that a row with a DiT's published weights must have
    "tokenizer": {"kind": "conv", "dim": 16, "perceptual": True, "adversarial": True, "scale": "published"},
    "noise": {"schedule": "ddpm"},
    "network": {"labels": True, "input": "latent", "output": "latent"},
    "objective": {"predict": "noise"},
}


class Spec(Config):
    """One row of the study."""

    tokenizer: Tokenizer = Tokenizer()
    noise: Noise = Noise()
    network: Network = Network()
    objective: Objective = Objective()
    recipe: Recipe = Recipe()
    method: Method = Method()
    features: Features = Features()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        images = "image" in (self.network.input, self.network.output)
        if images and not self.tokenizer.traits.on_images:
            raise ValueError(
                f"tokenizer.kind: {self.tokenizer.kind!r} has no inverse on the image; "
                f"network.input and network.output 'image' need {alternatives(kinds_with('on_images'))}"
            )
        for key, needed in ON_IMAGES.items():
            chosen = getattr(self.objective, key)
            if self.network.output == "image" and chosen != needed:
                raise ValueError(f"objective.{key}: found {chosen!r}; network.output 'image' needs {needed!r}")
        if self.objective.tail and self.network.output != "image":
            raise ValueError(
                f"objective.tail: {self.objective.tail} weighs pixels outside the latent; it needs "
                f"network.output 'image', found {self.network.output!r}"
            )
        if self.method.weights is not None and self.method.traits.denoises:
            for part, fields in PUBLISHED_DIT.items():
                for field, expected in fields.items():
                    if (actual := getattr(getattr(self, part), field)) != expected:
                        raise ValueError(
                            f"method.weights: of a DiT, whose {part}.{field} is {expected!r}; found {actual!r}"
                        )
        return self

    def changed(self, changes: dict[str, Any]) -> Spec:
        """This row with dotted keys replaced, e.g. `{"objective.predict": "clean"}`; validated.

        The rate, the batch and the weight decay are those of the method: a change of `method.name` resets them.
        Raises a `KeyError` with an unknown key and the known ones, and a `ValidationError` for a wrong value.
        """
        fields = self.model_dump()
        if changes.get("method.name", self.method.name) != self.method.name:  # another method has another recipe
            fields["recipe"] = Recipe(crop=self.recipe.crop, length=self.recipe.length).model_dump()
        for key, value in changes.items():
            part, _, field = key.partition(".")
            if part not in fields or field not in fields[part]:
                known = [f"{p}.{f}" for p, fs in fields.items() for f in fs]
                raise KeyError(key, known)
            fields[part][field] = value
        return Spec.model_validate(fields)

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        part, _, field = key.partition(".")
        return getattr(getattr(self, part), field)

    def unused(self, key: str) -> str | None:
        """Why a dotted key has no effect on this row; None where it has one."""
        method, part = self.method, key.partition(".")[0]
        if key == "objective.units" and self.network.output == "latent":
            return "network.output is 'latent', so that errors have the units of the latents"
        if method.weights is not None and (part == "recipe" or key == "network.size"):
            return "the row takes published weights and is not trained"
        if key == "noise.sigma" and method.traits.denoises and not self.noise.has_sigma:
            return f"noise.schedule {self.noise.schedule!r} has its own noise levels; only 'single' takes one"
        if method.traits.denoises or part in ("method", "features") or key == "network.size":
            return None
        if key in ("recipe.rate", "recipe.batch", "recipe.weight_decay"):
            return None
        if key == "recipe.length":
            return f"the length of {method.name} is set in scales/*.yaml, under baselines.{method.name}"
        return f"method.name {method.name!r} has crops, noise and losses of its own and no tokenizer"

    def changes(self, parent: Spec) -> dict[str, tuple[Any, Any]]:
        """By dotted key, what `parent` has and what this row has instead."""
        before, after = parent.model_dump(), self.model_dump()
        keys = [(part, field) for part, fields in after.items() for field in fields]
        pairs = {f"{part}.{field}": (before[part][field], after[part][field]) for part, field in keys}
        return {key: (old, new) for key, (old, new) in pairs.items() if old != new}
