"""A scale: how big the study is. No row changes these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, create_model, model_validator

from ldae.study.base import NUM_TIMES, PATCH, Architecture, Config, ExternalFile, Fraction, Positive, Size, SizeName
from ldae.study.methods import BASELINES
from ldae.study.recipes import Finetuning, Probing, Training
from ldae.study.spec import Spec

if TYPE_CHECKING:
    from ldae.study.stages import Stage


class Sides(Config):
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
                f"{1.5 * self.size:g}; give it next to size, or null to keep images of size"
            )
        return self

    @property
    def draws(self) -> int:
        """How many images are stored for one image of a replication."""
        return 1

    @property
    def stored(self) -> int:
        """The side of the images on disk."""
        return self.store or self.size


class Photos(Sides):
    """The embedded data set: crops of the photographs that ship inside scikit-image, scikit-learn and matplotlib."""

    source: Literal["photos"]
    train: Positive
    val: Positive

    @property
    def draws(self) -> int:
        """One for each side of a photograph that can be held out."""
        return 4


Tolerance = Literal["stop", "allow"]  # of many broken images


class Folder(Sides):
    """A tree of class folders: with `train/` and `val/`, or one tree that replications divide by `val_fraction`."""

    source: Literal["folder"]
    path: str
    val: str | None = None  # the folder of the validation images where it is not called val, valid, validation or dev
    val_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    white: Annotated[float, Field(gt=0)] | None = None  # in grey images of more than 8 bits; None: measured over all
    broken: Tolerance = "stop"


class ImageNet(Sides):
    """The three files that ImageNet (ILSVRC 2012) is distributed as, in one folder."""

    source: Literal["imagenet"]
    path: str
    broken: Tolerance = "stop"


Dataset = Annotated[Photos | Folder | ImageNet, Field(discriminator="source")]


class Fitting(Config):
    """How a tokenizer that is linear in its patches is fitted to data."""

    patches: Positive = 1_000_000  # sampled at random from the training images
    # Weight of the patch-wise VAE's KL divergence, of which the paper says nothing. At laptop scale 1.0 collapses 7 of
    # 16 dimensions and 119 of 128, 0.01 none.
    kl: Annotated[float, Field(gt=0)] = 0.01


class Convolutional(Config):
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
    perceptual: Literal["builtin"] | ExternalFile = (
        "builtin"  # the network of the perceptual loss; ExternalFile: VGG16's
    )
    lpips: ExternalFile | None = None  # its linear weights; None for uniform ones
    published: ExternalFile | None = None  # an autoencoder to take instead of training the one with all losses
    log_every: Positive = 50

    def without(self, unused: list[str]) -> Convolutional:
        """The same with these keys at their defaults: editing them concerns nothing that does not use them."""
        defaults = {key: type(self).model_fields[key].default for key in unused}
        return self.model_copy(update=defaults)


class Classifier(Config):
    """How a small classifier is trained with labels: for the perceptual loss, or to judge samples."""

    width: Positive
    steps: Positive
    batch: Positive
    rate: Annotated[float, Field(gt=0)]  # of AdamW
    log_every: Positive = 50


class Sampling(Config):
    """How samples are drawn (paper, Sec. 4.1)."""

    num: Annotated[int, Field(ge=100)] = 50_000
    steps: Annotated[int, Field(ge=1, le=NUM_TIMES)] = 250
    method: Literal["ddpm", "ddim"] = "ddpm"
    batch: Positive = 250


class Judging(Config):
    """How samples are compared with true images."""

    features: Literal["builtin"] | ExternalFile = "builtin"  # a file: Inception's, and the distance is called FID
    reference: ExternalFile | None = None  # statistics of the true images; None: measured on the training images

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.reference is not None and self.features == "builtin":
            raise ValueError("reference: published statistics are of Inception's features; features is 'builtin'")
        return self


_fields: dict[str, Any] = {name: (method.recipe | None, None) for name, method in BASELINES.items()}
_Recipes = create_model("_Recipes", __base__=Config, **_fields)


class Baselines(_Recipes):  # type: ignore[misc, valid-type]
    """The recipes of the methods that the paper compares with, by name."""


class Resources(Config):
    """What one job asks of each node. None of this changes a result, so none of it makes anything run again."""

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

    def of(self, stage: Stage) -> dict[str, int | str]:
        """What the rule of a stage asks Snakemake for, besides threads.

        `gpu` counts all processes and the GPUs of all nodes, which `gres` spreads evenly. With `mpi` the Slurm plugin
        starts the command once, on the first node, and `ldae` calls srun for the others. The plugin then requires
        `tasks`, and would start them on each GPU unless `tasks_per_gpu` is 0. A job of one node says so, because Slurm
        may take `--gpus` from several.
        """
        request: dict[str, int | str] = {"mem_mb": self.mem_mb, "runtime": self.minutes}
        if "processes" in stage.options:
            request |= {"gpu": self.processes, "nodes": self.nodes}
            if self.nodes > 1:
                request |= {"gres": f"gpu:{self.gpu}", "mpi": "srun", "tasks": self.nodes, "tasks_per_gpu": 0}
        elif stage.on_gpu:
            request["gpu"] = min(1, self.gpu)
        training = {"micro_batch": self.micro_batch or 0, "recompute": int(self.recompute)}
        request |= {option: value for option, value in training.items() if option in stage.options}
        if "resume" in stage.options:
            request["checkpoint_seconds"] = str(self.checkpoint_seconds)  # Snakemake knows whole numbers and texts
        return request


# The setting that asks for each small classifier by the word `builtin`: the perceptual loss, and the judge of samples.
BUILTIN: dict[Architecture, tuple[str, str]] = {
    "vgg": ("convolutional", "perceptual"),
    "resnet": ("judging", "features"),
}


Part = Literal["dataset", "tokenizer", "classifier"]  # what replications can share


class Scale(Config):
    """One file of `scales/`."""

    # The parts of seed 0 that all seeds share, to save time; `dataset` is the split. Every other part is replicated.
    shared: tuple[Part, ...] = ()
    dataset: Dataset
    sizes: dict[SizeName, Size]
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

    def training_of(self, row: Spec, factor: float = 1.0) -> Training:
        """The recipe by which a row is pretrained, with what the row itself changes and its factor on the rate.

        Raises a `ValueError` for a batch that is not a whole number.
        """
        return row.recipe.applied(self.recipe_for(row.method.name), factor)

    def recipe_for(self, method: str) -> Training:
        """The recipe of a method that pretrains; one that the scale does not give has the denoisers' keys."""
        if method not in BASELINES:
            return self.training
        recipe: Training | None = getattr(self.baselines, method)
        return recipe or BASELINES[method].recipe.model_validate(self.training.model_dump())

    def size_of(self, row: Spec) -> Size:
        """The size of a row's network."""
        published = row.method.weights
        return published.size(denoises=row.method.traits.denoises) if published else self.sizes[row.network.size]

    @property
    def divides(self) -> bool:
        """Whether the study divides the images into training and validation itself; other data sets have a split."""
        dataset = self.dataset
        return isinstance(dataset, Photos) or (isinstance(dataset, Folder) and dataset.val_fraction is not None)

    @model_validator(mode="after")
    def _no_leak(self) -> Self:
        if self.shared and self.divides and "dataset" not in self.shared:
            raise ValueError(
                f"shared: a {self.shared[0]} of seed 0 was trained with images that other seeds hold out; add dataset, "
                "so that all seeds share the split too"
            )
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        batches = {
            "training": self.training.batch,
            **{f"baselines.{name}": self.recipe_for(name).batch for name in BASELINES},
            "finetuning": self.finetuning.batch,
            "convolutional": self.convolutional.batch,
        }
        processes = self.resources.processes
        for key, batch in batches.items():
            if processes and batch % processes:
                raise ValueError(
                    f"{key}.batch: {batch} images cannot be divided among {processes} GPUs (resources.gpu times "
                    f"resources.nodes); give a multiple of {processes}"
                )
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for size in get_args(SizeName):
            if size not in self.sizes:
                raise ValueError(f"sizes.{size}: is missing")
        for name, (section, field) in BUILTIN.items():
            if getattr(getattr(self, section), field) == "builtin" and name not in self.classifiers:
                raise ValueError(f"classifiers.{name}: is missing, and {section}.{field} is 'builtin'; give its recipe")
        return self
