"""What each job of a study costs, by its arithmetic and the size of its data; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

from ldae.data.sources import presence
from ldae.runtime.files import read_json
from ldae.study.base import NUM_TIMES, PATCH, PATCH_DIM
from ldae.study.cost import (
    INCEPTION_MACS,
    autoencoder_macs,
    baseline_macs,
    classifier_macs,
    classifier_vit_macs,
    pretrain_macs,
    tokenizer_training_macs,
    transformer_macs,
    transformer_parameters,
)
from ldae.study.graph import Job
from ldae.study.record import digest, lineage
from ldae.study.scale import Photos
from ldae.study.spec import Recipe
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DatasetStage,
    DenoiserStage,
    FinetuneStage,
    PretrainStage,
    ProbeStage,
    pretraining_of,
)
from ldae.study.stages import Key
from ldae.study.study import Study


class Data(NamedTuple):
    """The size of a data set."""

    train: int
    val: int
    classes: int
    problem: str | None = None  # why the images cannot be counted, so that ImageNet's size is assumed
    warning: str | None = None  # what would keep them from being prepared, though their number is given


def size_of(study: Study, results: Path, images: int | None) -> Data:
    """The size of the data set: of the prepared images, as given, as counted on the disk, or ImageNet's.

    Args:
        study: with its scale.
        results: the folder of its results.
        images: of the training set, where they are not prepared.
    """
    manifest, dataset = results / "dataset/manifest.json", study.scale.dataset
    about: dict[str, Any] = read_json(manifest) if manifest.is_file() else {}
    expected = lineage("dataset", DatasetStage.for_job(study, {}), study.file.revisions["dataset"])
    if digest(about.get("lineage")) == digest(expected):
        counts: dict[str, dict[str, int]] = about["counts"]
        train, val = (sum(counts[split].values()) for split in ("train", "val"))
        return Data(train, val, len(about["classes"]))
    if images is not None and not isinstance(dataset, Photos):
        return Data(images, max(1, images // 20), presence.IMAGENET[2], warning=presence.problem(dataset))
    try:
        return Data(*presence.count(dataset))
    except (ValueError, OSError) as error:
        return Data(*presence.IMAGENET, problem=str(error))


class Cost(NamedTuple):
    """What a job takes."""

    flops: float = 0.0
    disk: float = 0.0  # bytes that it leaves


class Forecast:
    """What the jobs of a study cost at its scale."""

    def __init__(self, study: Study, data: Data) -> None:
        """Of a study at its scale, on data of a size."""
        self.study, self.data = study, data
        self.size = study.scale.dataset.size
        self.tokens = (self.size // PATCH) ** 2

    def of(self, job: Job) -> Cost:
        """The cost of a job of the graph; tables, figures and pages cost nothing worth planning."""
        costs = {
            "dataset": self._dataset,
            "classifier": self._classifier,
            "tokenizer": self._tokenizer,
            "convolutional_tokenizer": self._tokenizer,
            "pretrain": self._pretrain,
            "probe": self._probe,
            "finetune": self._finetune,
            "sample": self._sample,
            "reference": self._reference,
            "judge": self._judge,
        }
        return costs[job.entry.name](job.key) if job.entry is not None and job.entry.name in costs else Cost()

    def _dataset(self, key: Key) -> Cost:
        return Cost(disk=(self.data.train + self.data.val) * 3.0 * self.study.scale.dataset.stored**2)

    def _reference(self, key: Key) -> Cost:
        return Cost(0.0 if self.study.scale.judging.reference else 2.0 * self.data.train * self._judging())

    def _classifier(self, key: Key) -> Cost:
        stage = ClassifierStage.for_job(self.study, key)
        architecture, recipe = stage.architecture, stage.classifier
        flops = 6.0 * recipe.steps * recipe.batch * classifier_macs(architecture, recipe, self.size)
        return Cost(flops)

    def _tokenizer(self, key: Key) -> Cost:
        name = key["tokenizer"]
        stage, disk = self.study.tokenizers[name], 0.0
        if isinstance(stage, ConvolutionalStage):
            vgg = self.study.scale.classifiers.get("vgg")
            steps = 0 if stage.is_published else stage.convolutional.steps
            flops = 2.0 * steps * stage.convolutional.batch * tokenizer_training_macs(stage, vgg, self.size)
            flops += 2.0 * 2 * self.data.train * self._encoding(name)
            disk = self.data.train * 2.0 * self.tokens * stage.dim * 2
        else:
            flops = 2.0 * stage.fitting.patches * (3 * stage.patch**2) ** 2
        return Cost(flops, disk)

    def _encoding(self, name: str) -> int:
        """Multiply-adds of tokenizing an image."""
        stage = self.study.tokenizers[name]
        if not isinstance(stage, ConvolutionalStage):
            return self.tokens * PATCH_DIM * (stage.dim or PATCH_DIM)
        recipe = stage.convolutional
        return autoencoder_macs(size=self.size, width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4)[0]

    def _pretrain(self, key: Key) -> Cost:
        study, run = self.study, key["row"]
        stage = pretraining_of(study, run)
        if isinstance(stage, PretrainStage):
            row = cast(Recipe, stage.recipe)
            steps = max(1, round(row.length * stage.training.total_steps(self.data.train)))
            macs = 3 * pretrain_macs(stage, self.size)
            macs += self._encoding(stage.tokenizer.name) if row.crop == "random" else 0
            flops, copies = 2.0 * steps * stage.training.batch * macs, 2  # and the averaged weights
        elif study.is_published(run):
            flops, copies = 0.0, 1
        else:
            assert isinstance(stage, BaselineStage)
            recipe = stage.recipe
            steps = recipe.total_steps(self.data.train)
            flops, copies = 6.0 * steps * recipe.batch * baseline_macs(stage, self.size), 1
        size = stage.size
        blocks = size.encoder_blocks + (size.decoder_blocks if study.is_denoiser(run) else 0)
        weights = transformer_parameters(
            width=size.width,
            blocks=blocks,
            in_dim=PATCH_DIM,
            out_dim=PATCH_DIM,
            conditioning=round(size.width * size.conditioning),
        )
        return Cost(flops, 2.0 * copies * 4 * weights)  # once more among the finished run's own files

    def _probe(self, key: Key) -> Cost:
        study, probe, probing = self.study, key["row"], self.study.scale.probing
        stage, size = ProbeStage.for_job(study, key), pretraining_of(study, study.runs[probe]).size
        blocks = size.encoder_blocks + max(stage.offsets)
        macs = 2 * transformer_macs(
            tokens=self.tokens, width=size.width, blocks=blocks, in_dim=PATCH_DIM, out_dim=0, conditioning=0
        )
        augmented = (probing.views if probing.mode == "cached" else probing.epochs) * self.data.train
        flops = 2.0 * macs * (augmented + self.data.train + self.data.val)
        if study.is_denoiser(study.runs[probe]):
            name = study.variants[probe].spec.tokenizer.name
            cached = isinstance(study.tokenizers[name], ConvolutionalStage)  # of the centre crops
            images = augmented + self.data.val + (0 if cached else self.data.train)
            flops += 2.0 * images * self._encoding(name)
        heads = 2 * 2 * len(stage.offsets) * len(probing.rates) * size.width * self.data.classes
        flops += 2.0 * 2 * heads * probing.epochs * self.data.train
        return Cost(flops)

    def _finetune(self, key: Key) -> Cost:
        study, stage = self.study, FinetuneStage.for_job(self.study, key)
        size = pretraining_of(study, study.runs[key["row"]]).size
        macs = classifier_vit_macs(
            tokens=self.tokens,
            width=size.width,
            blocks=size.encoder_blocks + stage.offset,
            classes=self.data.classes,
        )
        recipe = stage.finetuning
        seen = 3 * recipe.total_steps(self.data.train) * recipe.batch + self.data.val  # forward passes' worth
        weights = transformer_parameters(
            width=size.width,
            blocks=size.encoder_blocks + stage.offset,
            in_dim=PATCH_DIM,
            out_dim=self.data.classes,
            conditioning=0,
        )
        return Cost(2.0 * seen * macs, 2.0 * 4 * weights)  # with their average, among the finished run's own files

    def _sample(self, key: Key) -> Cost:
        sampling, stage = self.study.scale.sampling, pretraining_of(self.study, key["row"])
        assert isinstance(stage, DenoiserStage)
        flops = 2.0 * sampling.num * min(sampling.steps, NUM_TIMES) * pretrain_macs(stage, self.size)
        return Cost(flops, sampling.num * 3.0 * self.size**2)

    def _judge(self, key: Key) -> Cost:
        return Cost(2.0 * self.study.scale.sampling.num * self._judging())

    def _judging(self) -> int:
        """Multiply-adds of a judge's features of an image."""
        scale = self.study.scale
        if scale.judging.features == "builtin":
            return classifier_macs("resnet", scale.classifiers["resnet"], self.size)
        return INCEPTION_MACS
