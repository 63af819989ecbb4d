"""The vocabulary of the study: what a row can change, what a scale fixes, and what each stage reads of both.

Everything is frozen, validated and comparable. A default here means "as before" for every result that exists
already, so a default is never edited: to change the baseline, edit its row in the study.
"""

from __future__ import annotations

import json
import math
import re
import typing
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

PATCH = 16  # side of a token's patch at every scale, in pixels of the full image (paper, Sec. 4.2)
PATCH_DIM = 3 * PATCH * PATCH  # D = 768
NUM_TIMES = 1000  # time steps of the diffusion process (DiT)
PIXEL_PATCHES = {768: 16, 192: 8, 48: 4, 12: 2}  # dims of a pixel token -> its patch on the resized image (Fig. 5)


def matching(pattern: str, wanted: str) -> AfterValidator:
    """Accepts texts that match a pattern, which a message calls `wanted`."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise PydanticCustomError("text", "should be {wanted}", {"wanted": wanted})
        return text

    return AfterValidator(check)


Positive = Annotated[int, Field(ge=1)]
Architecture = Literal["vgg", "resnet"]  # of the small classifiers: for the perceptual loss, and to judge samples
Fraction = Annotated[float, Field(ge=0, le=1)]
Multiple = Annotated[float, Field(gt=0)]
AnyTraining = TypeVar("AnyTraining", bound="Training")
Schedule = Literal["ddpm", "gamma2", "unscaled", "single"]


def _is_number(annotation: Any) -> bool:
    """Whether a value of a type is a number, or holds some."""
    return annotation in (int, float) or any(map(_is_number, typing.get_args(annotation)))


class Part(BaseModel):
    """A piece of configuration: immutable, hashable, and closed to words it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_not_a_number(cls, values: Any) -> Any:
        """Refuses `true` and `false` for a number: Python would take them for 1 and 0."""
        for name, field in cls.model_fields.items():
            value = values.get(field.alias or name) if isinstance(values, dict) else None
            inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
            if any(isinstance(part, bool) for part in inner) and _is_number(field.annotation):
                raise ValueError(f"{field.alias or name}: found {json.dumps(value)}, should be a number")
        return values

    def to_json(self) -> str:
        """The canonical text of this part: only what differs from the defaults, keys sorted."""
        return json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True, separators=(",", ":"))


class Size(Part):
    """The size of the Diffusion Transformer: half of its blocks are the encoder, half the decoder."""

    width: Annotated[int, Field(ge=8, multiple_of=4)]
    heads: Positive
    encoder_blocks: Positive
    decoder_blocks: Positive
    conditioning: Annotated[float, Field(gt=0, le=1)] = 0.25  # width of the time embedding / width (paper, App. A)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self


class Weights(Part):
    """A file of published weights or statistics: where it lies, and its SHA-256, without which it is not read."""

    path: str
    sha256: Annotated[str, matching("[0-9a-f]{64}", "the 64 digits that sha256sum prints")]


class Published(Weights):
    """Published weights that a row takes instead of training: a DiT's, or those of an encoder that MAE has trained.

    What their shapes must be follows from the numbers here; the heads are not to be seen in shapes.
    """

    width: Annotated[int, Field(ge=8, multiple_of=4)]
    heads: Positive
    blocks: Positive
    classes: Positive = 1000  # that a DiT has labels of

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self

    def size(self, method: str) -> Size:
        """Of the network: the first half of a DiT's blocks are the encoder, and its conditioning has the full width."""
        encoder = max(1, self.blocks // 2) if method == "denoiser" else self.blocks
        return Size(
            width=self.width,
            heads=self.heads,
            encoder_blocks=encoder,
            decoder_blocks=max(1, self.blocks - encoder),
            conditioning=1.0,
        )


# ---------------------------------------------------------------------------------------------------------------------
# A row: five parts of the method, and which of its activations are probed.
# ---------------------------------------------------------------------------------------------------------------------


class Tokenizer(Part):
    """How an image becomes tokens (paper, Sec. 4.2)."""

    kind: Literal["pca", "pixel", "conv", "patch_vae", "patch_ae"] = "pca"
    dim: Annotated[int, Field(ge=1, le=PATCH_DIM)] = 32
    # Losses of `conv` beside reconstruction and KL divergence: with both it is the VQGAN of latent diffusion.
    perceptual: bool = False
    adversarial: bool = False
    # The paper leaves the scaling of its latents open. `global` divides all dimensions by one number, as latent
    # diffusion does; `dimension` gives each of them unit variance, which for PCA is whitening. Of the two pairs that
    # weigh a component alike in latents and in images, `global` with `pixel` units gave l-DAE (2000 steps, d = 32) a
    # held-out accuracy of 41.2, 42.2 and 38.5 with seeds 0 to 2, `dimension` with `whitened` units 37.3, 35.5 and 34.4.
    # (`global` with `whitened` units, which changes space and units at once: 44.9, 46.0, 44.2.)
    # `published` multiplies them by 0.18215, the number that Stable Diffusion's VAE is used with.
    scale: Literal["global", "dimension", "published"] = "global"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "pixel" and self.dim not in PIXEL_PATCHES:
            raise ValueError(f"tokenizer.dim: found {self.dim}; a pixel token has one of {sorted(PIXEL_PATCHES)}")
        if self.kind == "conv" and self.dim % 4:
            raise ValueError(
                f"tokenizer.dim: found {self.dim}; a 'conv' token is 2 x 2 latents, so give a multiple of 4"
            )
        if self.kind != "conv" and (self.perceptual or self.adversarial):
            loss = "perceptual" if self.perceptual else "adversarial"
            raise ValueError(f"tokenizer.{loss}: {self.kind!r} has no such loss; it needs tokenizer.kind 'conv'")
        if self.kind != "conv" and self.scale == "published":
            raise ValueError(f"tokenizer.scale: 'published' needs tokenizer.kind 'conv', found {self.kind!r}")
        return self

    @property
    def name(self) -> str:
        """The name of the fit that this tokenizer needs: one PCA serves every `dim`, and a fit every `scale`."""
        if self.kind == "pca":
            return "pca"
        losses = [loss for loss in ("perceptual", "adversarial") if getattr(self, loss)]
        return "-".join([self.kind, str(self.dim), *losses])


class Noise(Part):
    """How strongly the latents are corrupted at each time step (paper, Sec. 4.1, 4.3 and 4.4)."""

    schedule: Schedule = "gamma2"
    sigma: Annotated[float, Field(gt=0)] = math.sqrt(1 / 3)  # the level of `single`


class Network(Part):
    """What the Diffusion Transformer is given and what it returns (paper, Sec. 4.1 and 4.3)."""

    size: Literal["B", "half-L", "L"] = "half-L"  # of the encoder, as the scale defines it; the decoder's is the same
    labels: bool = False
    input: Literal["latent", "image"] = "latent"
    output: Literal["latent", "image"] = "latent"


class Objective(Part):
    """What is predicted, and how its errors are weighed (paper, Sec. 4.3)."""

    predict: Literal["noise", "clean"] = "noise"
    weight: Literal["uniform", "signal"] = "uniform"
    # Eq. 4's weight of the components that the tokenizer drops (i > d). At 0 the image to predict is the projection
    # V^T V x; above 0 it is the original image, whose dropped part counts this much. The paper's value is 0.1.
    tail: Fraction = 0.0
    # The units in which an image residual's components are weighed: `pixel`, or `whitened`, where component i is
    # divided by its standard deviation (and the dropped ones by the d-th's). See Tokenizer.scale for the choice.
    units: Literal["pixel", "whitened"] = "pixel"


class Recipe(Part):
    """How a row is pretrained, beside what the scale says for all of them (paper, Sec. 5).

    MAE and MoCo v3 have crops and lengths of their own. Fine-tuning follows the scale's recipe for it, in every row.
    """

    crop: Literal["center", "random"] = "center"  # `random`: random resized crops, at least a fifth of the area
    # Multiples of what the scale says. The rate is per 256 images, so that a larger batch has a larger peak rate. The
    # length is in images: with twice the batch a training of the same length has half the steps.
    length: Multiple = 1.0
    rate: Multiple = 1.0
    batch: Multiple = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None  # None: what the scale says

    def applied(self, training: AnyTraining) -> AnyTraining:
        """A recipe of the scale with this row's rate, batch and weight decay; its length is that of `length` 1.

        Raises:
            ValueError: for a batch that is not a whole number.
        """
        changes: dict[str, Any] = {}
        if self.rate != 1:
            changes["rate"] = self.rate * training.rate
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


class Method(Part):
    """What pretrains the encoder: a denoiser of the parts above, or a method that the paper compares with (Sec. 5)."""

    name: Literal["denoiser", "mae", "moco_v3"] = "denoiser"
    weights: Published | None = None  # taken instead of training

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.weights is not None and self.name == "moco_v3":
            raise ValueError("method.weights: published weights are read of DiT (method.name 'denoiser') and of 'mae'")
        return self


class Features(Part):
    """Which activations are the representation (paper, App. A)."""

    offset: int = 0  # of the probed block from the encoder's last: +1 is the decoder's first
    time: Annotated[int, Field(ge=0, lt=NUM_TIMES)] = 10  # the time step that the conditioning is fixed to
    noisy: bool = False  # whether the images are given the noise of that step


PUBLISHED_DIT: dict[str, dict[str, Any]] = {  # what a row that takes a DiT's weights has to say, beside where they lie
    "tokenizer": {"kind": "conv", "dim": 16, "perceptual": True, "adversarial": True, "scale": "published"},
    "noise": {"schedule": "ddpm"},
    "network": {"labels": True, "input": "latent", "output": "latent"},
    "objective": {"predict": "noise"},
}


class Spec(Part):
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
        if images and self.tokenizer.kind != "pca":
            raise ValueError(
                f"tokenizer.kind: {self.tokenizer.kind!r} has no inverse on the image; "
                "network.input and network.output 'image' need 'pca'"
            )
        if self.network.output == "image" and self.objective.predict != "clean":
            raise ValueError(
                f"objective.predict: found {self.objective.predict!r}; network.output 'image' needs 'clean'"
            )
        if self.objective.tail and self.network.output != "image":
            raise ValueError(
                f"objective.tail: {self.objective.tail} weighs pixels outside the latent; it needs "
                f"network.output 'image', found {self.network.output!r}"
            )
        if self.noise.schedule == "single" and self.objective.predict == "noise" and images:
            raise ValueError("noise.schedule: 'single' on images needs objective.predict 'clean'")
        if self.method.weights is not None and self.method.name == "denoiser":
            for part, fields in PUBLISHED_DIT.items():
                for field, wanted in fields.items():
                    if (found := getattr(getattr(self, part), field)) != wanted:
                        raise ValueError(
                            f"method.weights: of a DiT, whose {part}.{field} is {wanted!r}; found {found!r}"
                        )
        return self

    def changed(self, changes: dict[str, Any]) -> Spec:
        """This row with dotted keys replaced, e.g. `{"objective.predict": "clean"}`; validated.

        The rate, the batch and the weight decay are those of the method: a change of `method.name` resets them.

        Raises:
            KeyError: with an unknown key, and those that there are.
            ValidationError: for a value that a key cannot have, or that fits no other value of the row.
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

    def unused(self, key: str) -> str | None:
        """Why a dotted key has no effect on this row; None where it has one."""
        method, part = self.method, key.partition(".")[0]
        if method.weights is not None and (part == "recipe" or key == "network.size"):
            return "the row takes published weights and is not trained"
        if method.name == "denoiser" or part in ("method", "features") or key == "network.size":
            return None
        if key in ("recipe.rate", "recipe.batch", "recipe.weight_decay"):
            return None
        if key == "recipe.length":
            return f"the length of {method.name} stands in scales/*.yaml, under baselines.{method.name}"
        return f"method.name {method.name!r} has crops, noise and losses of its own and no tokenizer"

    def changed_parts(self, parent: Spec) -> list[str]:
        """The names of the parts in which this row differs from `parent`."""
        return [part for part in Spec.model_fields if getattr(self, part) != getattr(parent, part)]

    def changes(self, parent: Spec) -> dict[str, tuple[Any, Any]]:
        """By dotted key, what `parent` has and what this row has instead."""
        before, after = parent.model_dump(), self.model_dump()
        return {
            f"{part}.{field}": (before[part][field], value)
            for part in self.changed_parts(parent)
            for field, value in after[part].items()
            if value != before[part][field]
        }


# ---------------------------------------------------------------------------------------------------------------------
# A scale: how big the study is. No row changes these.
# ---------------------------------------------------------------------------------------------------------------------


class Sides(Part):
    """How large the images are that networks see, and how large they are kept."""

    size: Annotated[int, Field(ge=PATCH, multiple_of=PATCH)]
    # Random crops are cut from images of this side; all that looks at whole images has them scaled to `size`. None
    # keeps images of `size`.
    store: Annotated[int, Field(ge=PATCH)] | None = None

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.store is not None and not self.size <= self.store <= 1.5 * self.size:
            raise ValueError(
                f"store: {self.store} should lie between size, {self.size}, and half as much again, "
                f"{1.5 * self.size:g}; give it beside size, or null to keep images of size"
            )
        return self

    @property
    def stored(self) -> int:
        """The side of the images on disk."""
        return self.store or self.size


class Photos(Sides):
    """The embedded data set: crops of the photographs that ship inside scikit-image, scikit-learn and matplotlib."""

    source: Literal["photos"]
    train: Positive
    val: Positive
    seed: int = 0


Tolerance = Literal["stop", "allow"]  # of many broken images


class Folder(Sides):
    """A tree of class folders: with `train/` and `val/`, or one tree that is split by `val_fraction` and `seed`."""

    source: Literal["folder"]
    path: str
    val: str | None = None  # the folder of the validation images where it is not called val, valid, validation or dev
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: int = 0
    white: Annotated[float, Field(gt=0)] | None = None  # in grey images of more than 8 bits; None: measured over all
    broken: Tolerance = "stop"


class ImageNet(Sides):
    """The three files that ImageNet (ILSVRC 2012) is distributed as, in one folder."""

    source: Literal["imagenet"]
    path: str
    broken: Tolerance = "stop"


Dataset = Annotated[Photos | Folder | ImageNet, Field(discriminator="source")]


class Sizes(Part):
    """The three sizes of the paper's Sec. 5 at this scale; all rows but a few have the middle one."""

    base: Size = Field(alias="B")
    half_large: Size = Field(alias="half-L")
    large: Size = Field(alias="L")

    def named(self, name: str) -> Size:
        """The size of a row's `network.size`."""
        return {"B": self.base, "half-L": self.half_large, "L": self.large}[name]


class Fitting(Part):
    """How a tokenizer that is linear in its patches is fitted to data."""

    patches: Positive = 1_000_000  # sampled at random from the training images
    seed: int = 0
    # Weight of the patch-wise VAE's KL divergence, of which the paper says nothing. At laptop scale 1.0 collapses 7 of
    # 16 dimensions and 119 of 128, 0.01 none.
    kl: Annotated[float, Field(gt=0)] = 0.01


class Convolutional(Part):
    """How a convolutional tokenizer is built and trained; the defaults are latent diffusion's KL-f8."""

    width: Annotated[int, Field(ge=4, multiple_of=4)] = 128
    blocks: Positive = 2  # residual blocks a level
    steps: Positive
    batch: Positive
    rate: Annotated[float, Field(gt=0)]  # of Adam
    kl: Annotated[float, Field(ge=0)] = 1e-6
    perceptual_weight: Annotated[float, Field(gt=0)] = 1.0
    adversarial_weight: Annotated[float, Field(gt=0)] = 0.5
    adversarial_start: Fraction = 0.2  # share of the steps without a discriminator; KL-f8: 50,001 of 246,803
    discriminator_width: Positive = 64
    perceptual: Literal["builtin"] | Weights = "builtin"  # the network of the perceptual loss; Weights: VGG16's
    lpips: Weights | None = None  # its linear weights; None for uniform ones
    published: Weights | None = None  # an autoencoder to take instead of training the one with all losses
    seed: int = 0
    log_every: Positive = 50

    def without(self, unused: list[str]) -> Convolutional:
        """The same with these keys at their defaults: editing them concerns nothing that does not use them."""
        defaults = {key: type(self).model_fields[key].default for key in unused}
        return self.model_copy(update=defaults)


class Classifier(Part):
    """How a small classifier is trained with labels: for the perceptual loss, or to judge samples."""

    width: Positive
    steps: Positive
    batch: Positive
    rate: Annotated[float, Field(gt=0)]  # of AdamW
    seed: int = 0
    log_every: Positive = 50


class Sampling(Part):
    """How samples are drawn (paper, Sec. 4.1)."""

    num: Annotated[int, Field(ge=100)] = 50_000
    steps: Annotated[int, Field(ge=1, le=NUM_TIMES)] = 250
    method: Literal["ddpm", "ddim"] = "ddpm"
    batch: Positive = 250


class Judging(Part):
    """How samples are compared with true images."""

    features: Literal["builtin"] | Weights = "builtin"  # Weights: Inception's, and the distance is called FID
    reference: Weights | None = None  # mean and covariance of the true images; None: measured on the training images

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.reference is not None and self.features == "builtin":
            raise ValueError("reference: published statistics are of Inception's features; features is 'builtin'")
        return self


class Training(Part):
    """The recipe of pretraining. `rate` is per 256 images: the rate used is rate * batch / 256 (MAE's rule)."""

    steps: Positive | None = None
    epochs: Annotated[float, Field(gt=0)] | None = None
    batch: Positive
    rate: Annotated[float, Field(gt=0)]
    warmup: Fraction  # of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    log_every: Positive = 50  # steps

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is None and self.epochs is None:
            raise ValueError("steps: is missing; give steps or epochs")
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps: {self.steps} and epochs: {self.epochs}; give exactly one of the two")
        return self

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, by the linear rule."""
        return self.rate * self.batch / 256

    def total_steps(self, num_images: int) -> int:
        """Optimizer steps over a training set of `num_images`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * num_images / self.batch))


class MAETraining(Training):
    """The recipe of MAE (He et al., 2022), scaled to the budget."""

    decoder_width: Annotated[int, Field(ge=8, multiple_of=4)] = 512
    decoder_heads: Positive = 16
    decoder_blocks: Positive = 8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05


class MoCoTraining(Training):
    """The recipe of MoCo v3 (Chen, Xie & He, 2021), scaled to the budget."""

    hidden: Positive = 4096  # width of the projector and predictor
    out: Positive = 256
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Baselines(Part):
    """The methods that the paper compares with, each with its own recipe."""

    mae: MAETraining
    moco_v3: MoCoTraining


class LayerDecay(Part):
    """What a block's learning rate in fine-tuning is of that of the block above it, for each size of the encoder.

    The paper gives those of ViT-B and ViT-L; half-L has the width of the second.
    """

    base: Fraction = Field(alias="B", default=0.85)
    half_large: Fraction = Field(alias="half-L", default=0.65)
    large: Fraction = Field(alias="L", default=0.65)

    def named(self, name: str) -> float:
        """The decay of a row's `network.size`."""
        return {"B": self.base, "half-L": self.half_large, "L": self.large}[name]


class Finetuning(Training):
    """The recipe of fine-tuning with labels (paper, App. B, which follows MAE); the defaults are the paper's."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    layer_decay: LayerDecay = LayerDecay()
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of the last block's branches; the others' rise to it
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1  # of labels; this one is MAE's, the paper names none
    mixup: Annotated[float, Field(ge=0)] = 0.8  # parameter of the Beta distribution that images are blended by
    cutmix: Annotated[float, Field(ge=0)] = 1.0  # the same, for the area that is pasted from another image
    magnitude: Annotated[float, Field(ge=0, le=10)] = 9.0  # of RandAugment's two operations an image; 0 for none


class Probing(Part):
    """The linear probe's protocol (paper, App. A, which follows MAE)."""

    mode: Literal["cached", "exact"]  # features of `views` augmentations computed once, or of a new one each epoch
    views: Annotated[int, Field(ge=0)] = 1  # of `cached`; 0: the centre crop alone
    epochs: Positive = 90
    warmup: Annotated[int, Field(ge=0)] = 10  # epochs
    batch: Positive = 16384
    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]  # per 256 images, LARS
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the training groups, on which the rate is chosen
    neighbours: Positive = 20  # of the k-NN classifier
    extract_batch: Positive = 256  # images a forward pass

    @property
    def centres_alone(self) -> bool:
        """Whether heads learn from the centre crops, which also choose the rate and vote."""
        return self.mode == "cached" and not self.views


class Resources(Part):
    """What one job asks of the machine. None of this changes a result, so none of it makes anything run again.

    Threads, GPUs and memory are those of each node.
    """

    threads: Positive = 1
    gpu: Annotated[int, Field(ge=0)] = 0
    nodes: Positive = 1  # of a Slurm job that several processes share
    mem_mb: Positive = 3000
    minutes: Positive = 60
    micro_batch: Positive | None = None  # images a forward pass in training; None for the whole batch
    # Whether trainings that cannot split their batch (MAE, MoCo v3, convolutional tokenizers) compute activations a
    # second time rather than keep them: a third slower, in a fraction of the memory.
    recompute: bool = False
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 300.0

    @model_validator(mode="after")
    def _several_nodes(self) -> Self:
        if self.nodes > 1 and not self.gpu:
            raise ValueError(f"nodes: {self.nodes} nodes are for GPUs, one process for each; give gpu, or nodes: 1")
        if self.nodes > 1 and self.threads < self.gpu:
            raise ValueError(
                f"threads: {self.threads} cores a node are too few for a process on each of {self.gpu} GPUs"
            )
        return self

    @property
    def processes(self) -> int:
        """How many share a batch: one for each GPU of all nodes; 0 without GPUs, where a single one does all."""
        return self.nodes * self.gpu


class Scale(Part):
    """One file of `scales/`."""

    dataset: Dataset
    sizes: Sizes
    fitting: Fitting = Fitting()
    convolutional: Convolutional
    classifiers: dict[Architecture, Classifier]
    training: Training
    baselines: Baselines
    finetuning: Finetuning
    probing: Probing
    sampling: Sampling = Sampling()
    judging: Judging = Judging()
    resources: Resources = Resources()

    def training_of(self, row: Spec) -> Training:
        """The recipe by which a row is pretrained, with what the row itself changes.

        Raises:
            ValueError: for a batch that is not a whole number.
        """
        return row.recipe.applied(self.recipe_for(row.method.name))

    def recipe_for(self, method: str) -> Training:
        """The recipe of a method that pretrains."""
        recipes: dict[str, Training] = {"mae": self.baselines.mae, "moco_v3": self.baselines.moco_v3}
        return recipes.get(method, self.training)

    def size_of(self, row: Spec) -> Size:
        """The size of a row's network."""
        published = row.method.weights
        return published.size(row.method.name) if published else self.sizes.named(row.network.size)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        batches = {
            "training": self.training.batch,
            "baselines.mae": self.baselines.mae.batch,
            "baselines.moco_v3": self.baselines.moco_v3.batch,
            "finetuning": self.finetuning.batch,
            "convolutional": self.convolutional.batch,
        }
        processes = self.resources.processes
        for key, batch in batches.items():
            if processes and batch % processes:
                lower = batch // processes * processes
                fitting = " or ".join(str(value) for value in (lower, lower + processes) if value)
                raise ValueError(
                    f"{key}.batch: {batch} images cannot be divided among {processes} GPUs (resources.gpu times "
                    f"resources.nodes); {fitting} can"
                )
        return self

    @model_validator(mode="after")
    def _classifiers(self) -> Self:
        for name, wanted in (("vgg", self.convolutional.perceptual), ("resnet", self.judging.features)):
            if wanted == "builtin" and name not in self.classifiers:
                key = "convolutional.perceptual" if name == "vgg" else "judging.features"
                raise ValueError(f"classifiers.{name}: is missing, and {key} is 'builtin'; give its recipe")
        return self


# ---------------------------------------------------------------------------------------------------------------------
# A stage: the part of the row and of the scale that it reads, and so what makes it run again.
# ---------------------------------------------------------------------------------------------------------------------


class DatasetStage(Part):
    """What preparing the images depends on."""

    dataset: Dataset


class ClassifierStage(Part):
    """What training a small classifier depends on."""

    architecture: Architecture
    classifier: Classifier


class TokenizerStage(Part):
    """What fitting a tokenizer depends on."""

    kind: Literal["pca", "pixel", "patch_vae", "patch_ae"] = "pca"
    patch: int = PATCH  # side of a token's patch on the (resized) image
    dim: int | None = None  # of the patch-wise VAE and AE; PCA and pixels keep all
    fitting: Fitting = Fitting()


class ConvolutionalStage(Part):
    """What training a convolutional tokenizer depends on."""

    dim: int
    perceptual: bool = False
    adversarial: bool = False
    convolutional: Convolutional

    @property
    def is_published(self) -> bool:
        """Whether published weights are taken instead of training: those of KL-f8 have 4 channels and all losses."""
        return bool(self.convolutional.published) and self.perceptual and self.adversarial and self.dim == 16

    @property
    def needs_vgg(self) -> bool:
        """Whether it is trained with the features of the study's own VGG-style network."""
        return self.perceptual and not self.is_published and self.convolutional.perceptual == "builtin"


def tokenizer_stage(tokenizer: Tokenizer, scale: Scale) -> TokenizerStage | ConvolutionalStage:
    """The fit that a row's tokenizer needs."""
    if tokenizer.kind == "conv":
        losses = {"perceptual": tokenizer.perceptual, "adversarial": tokenizer.adversarial}
        stage = ConvolutionalStage(dim=tokenizer.dim, **losses, convolutional=scale.convolutional)
        unused = [] if stage.is_published else ["published"]
        unused += [] if stage.perceptual else ["perceptual", "perceptual_weight", "lpips"]
        unused += [] if stage.adversarial else ["adversarial_weight", "adversarial_start", "discriminator_width"]
        return stage.model_copy(update={"convolutional": scale.convolutional.without(unused)})
    return TokenizerStage(
        kind=tokenizer.kind,
        patch=PIXEL_PATCHES[tokenizer.dim] if tokenizer.kind == "pixel" else PATCH,
        dim=tokenizer.dim if tokenizer.kind in ("patch_vae", "patch_ae") else None,
        fitting=scale.fitting,
    )


class DenoiserStage(Part):
    """What a denoiser is, wherever its weights come from."""

    tokenizer: Tokenizer = Tokenizer()
    noise: Noise = Noise()
    network: Network = Network()
    objective: Objective = Objective()
    size: Size


class PretrainStage(DenoiserStage):
    """What pretraining a denoiser depends on."""

    recipe: Recipe = Recipe()
    training: Training

    @classmethod
    def of(cls, row: Spec, scale: Scale) -> PretrainStage:
        """The pretraining of one row."""
        return cls(
            tokenizer=row.tokenizer,
            noise=row.noise,
            network=row.network,
            objective=row.objective,
            recipe=Recipe(crop=row.recipe.crop, length=row.recipe.length),
            size=scale.size_of(row),
            training=scale.training_of(row),
        )


class AdoptStage(DenoiserStage):
    """What taking a published DiT's weights depends on."""

    weights: Published

    @classmethod
    def of(cls, row: Spec, scale: Scale) -> AdoptStage:
        """The row's weights and what they are composed with."""
        assert row.method.weights is not None
        return cls(
            tokenizer=row.tokenizer,
            noise=row.noise,
            network=row.network.model_copy(update={"size": Network().size}),  # the weights have their own
            objective=row.objective,
            size=scale.size_of(row),
            weights=row.method.weights,
        )


class BaselineStage(Part):
    """What pretraining with a method that the paper compares with, or taking its published weights, depends on."""

    size: Size
    mae: MAETraining | None = None
    moco_v3: MoCoTraining | None = None
    weights: Published | None = None

    @classmethod
    def of(cls, row: Spec, scale: Scale) -> BaselineStage:
        """The pretraining of one row; exactly one of the two recipes, or weights, are given."""
        size = scale.size_of(row)
        if row.method.weights is not None:
            return cls(size=size, weights=row.method.weights)
        recipe = scale.training_of(row)
        if isinstance(recipe, MAETraining):
            return cls(size=size, mae=recipe)
        assert isinstance(recipe, MoCoTraining)
        return cls(size=size, moco_v3=recipe)


class ProbeStage(Part):
    """What probing depends on, beside the network that it probes: one pass over the images serves all `offsets`."""

    offsets: tuple[int, ...] = (0,)
    time: int = 10
    noisy: bool = False
    probing: Probing


class FinetuneStage(Part):
    """What fine-tuning depends on, beside the encoder that it starts from."""

    offset: int = 0
    time: int = 10
    layer_decay: float
    finetuning: Finetuning

    @classmethod
    def of(cls, row: Spec, scale: Scale) -> FinetuneStage:
        """The fine-tuning of one row; of the layer decays it sees its own size's alone."""
        recipe = scale.finetuning
        return cls(
            offset=row.features.offset,
            time=row.features.time,
            layer_decay=recipe.layer_decay.named(row.network.size),
            finetuning=recipe.model_copy(update={"layer_decay": LayerDecay()}),
        )


class SampleStage(Part):
    """What sampling depends on, beside the network that samples."""

    sampling: Sampling


class JudgeStage(Part):
    """What comparing samples with true images depends on, beside the samples and a classifier's features."""

    judging: Judging


class DenoiseStage(Part):
    """What showing a row's denoising depends on, beside its network."""

    num: Positive = 12  # validation images
    sigma: Annotated[float, Field(gt=0)] = math.sqrt(1 / 3)  # the level of the paper's Fig. 7
