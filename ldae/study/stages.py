"""The stages of the graph, each described once: what it leaves, what it reads, whom it serves, and how it is started.

All that is said of a stage elsewhere follows from its entry here: lineages, jobs, plan, status, the inputs of its rule
and the options of its command. A new stage is an entry, a function in `ldae/stages/` and a rule. This module imports
nothing heavy, because the help of `ldae` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ldae.study.base import Config
    from ldae.study.cost import Costs
    from ldae.study.study import Study

Key = dict[str, Any]  # which job of a stage: its `row` and `seed`, its `tokenizer`, or its `architecture`
Places = dict[str, str | None]  # the option of a command, and where the result that it names lies

FOLDERS = {  # the options that name earlier results
    "dataset": "the prepared images",
    "tokenizer": "the fitted tokenizer, for a row that has one",
    "vgg": "the classifier of the perceptual loss, if it is trained in the graph",
    "model": "the trained row",
    "samples": "a row's samples",
    "reference": "the feature statistics of the real images",
    "judge": "the classifier that extracts features, if it is trained in the graph",
}
INPUTS = {  # and the record in each of these folders
    "dataset": "manifest.json",
    "tokenizer": "tokenizer.json",
    "vgg": "classifier.json",
    "model": "run.json",
    "samples": "samples.json",
    "reference": "reference.json",
    "judge": "classifier.json",
}


class Cost(NamedTuple):
    """What a job takes."""

    flops: float = 0.0
    disk: float = 0.0  # bytes that it leaves


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the graph."""

    name: str  # of its rule
    command: str  # `ldae <command>`
    help: str
    revision: str  # its key in the study's `revisions`, which is also its key in lineages
    # What a job reads: the first of these classes of `ldae.study.stage_specs` that fits it; and the function of
    # `ldae.stages` that the command calls with it, as "<module>.<function>".
    specs: dict[str, str]
    place: str  # where its result lies in the results folder, e.g. "probe/{row}/seed{seed}"
    title: str  # a job for a reader, e.g. "{row}, seed {seed}"
    record: str  # the file in which a result says what it was made from
    files: tuple[str, ...]  # the other files that later jobs or people read
    absent: Callable[[Study, Key], Collection[str]] = lambda study, key: ()  # those of them that a job does not leave
    # The jobs that a study asks for: of a stage of rows, those that serve some row (None where a row needs none of its
    # jobs), each once for a seed; of another stage, their keys.
    serving: Callable[[Study, str], str | None] | None = None
    shared: Callable[[Study], Iterable[Key]] = lambda study: ()
    inputs: Callable[[Study, Key], Places] = lambda study, key: {}
    required: tuple[str, ...] = ()  # the options that name earlier results of every job
    optional: tuple[str, ...] = ()  # and of some
    options: tuple[
        str, ...
    ] = ()  # further options of the command: row, seed, resume, processes, micro_batch, recompute
    on_gpu: bool = True  # where the scale names GPUs; one, or with `processes` all of them
    precision: str = "float32"  # of its inner loop, as `ldae.runtime.machine` names it
    cost: Callable[[Costs, Key], Cost] = lambda costs, key: Cost()
    is_result: bool = False  # whether tables show its numbers of a row
    comes_first: Callable[[Key], bool] = lambda key: False  # whether its jobs wait for no row

    @property
    def folders(self) -> tuple[str, ...]:
        """The options that name earlier results, in the order of `FOLDERS`."""
        return tuple(folder for folder in FOLDERS if folder in (*self.required, *self.optional))

    def keys(self, study: Study) -> list[Key]:
        """The jobs that a study asks for; those of one seed come before those of the next."""
        if self.serving is None:
            return list(self.shared(study))
        rows = dict.fromkeys(row for name in study.variants if (row := self.serving(study, name)) is not None)
        return [{"row": row, "seed": seed} for seed in study.file.seeds for row in rows]

    def key_of(self, place: str) -> Key | None:
        """The job whose result lies at a place of the results folder; None where another stage's does."""
        pattern = re.escape(self.place).replace(r"\{", "{").replace(r"\}", "}")
        pattern = pattern.replace("{seed}", r"(?P<seed>0|[1-9]\d*)")
        match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), place)
        if match is None:
            return None
        return {name: int(value) if name == "seed" else value for name, value in match.groupdict().items()}

    def spec(self, study: Study, key: Key) -> Config:
        """What a job reads of its row and of the scale.

        Raises:
            StudyError: for a job that the study cannot describe, e.g. of a classifier without a recipe.
        """
        from ldae.study import stage_specs

        found = (getattr(stage_specs, name).for_job(study, key) for name in self.specs)
        spec: Config = next(spec for spec in found if spec is not None)
        return spec

    def lineage_key(self, spec: Config) -> str:
        """The key of a job in lineages: its revision's, but a classifier's architecture."""
        key: str = getattr(spec, "architecture", self.revision)
        return key


def _tokenizer(study: Study, row: str) -> str | None:
    """The place of the tokenizer that a row's network is given; None for a method without one."""
    run = study.runs[row]
    return f"tokenizers/{study.variants[run].spec.tokenizer.name}" if study.is_denoiser(run) else None


def _trained(study: Study, key: Key) -> Places:
    """What a job reads that looks at a trained row."""
    row = key["row"]
    model = f"pretrain/{study.runs[row]}/seed{key['seed']}"
    return {"dataset": "dataset", "tokenizer": _tokenizer(study, row), "model": model}


def _judge(study: Study) -> str | None:
    """The place of the study's own classifier, where it judges samples."""
    return "classifiers/resnet" if study.scale.judging.features == "builtin" else None


def _absent_of_pretraining(study: Study, key: Key) -> list[str]:
    """The files that not every pretraining leaves: averaged weights are a denoiser's, and a history a training's."""
    ema = [] if study.is_denoiser(key["row"]) else ["ema.safetensors"]
    return [*ema, *(["history.csv"] if study.is_published(key["row"]) else [])]


def _tokenizers(study: Study, *, convolutional: bool) -> list[Key]:
    return [{"tokenizer": name} for name in study.tokenizers if study.is_convolutional(name) == convolutional]


def _judged(study: Study, row: str) -> str | None:
    """The row whose samples serve a row; None where the study asks for none."""
    return study.runs[row] if study.variants[row].fid else None


ARRAYS = tuple(f"{split}{part}.npy" for split in ("train", "val") for part in ("", "_labels", "_groups", "_checksums"))
ENTRIES = (
    Stage(
        name="dataset",
        command="prepare",
        help="prepare the images of a data set",
        revision="dataset",
        specs={"DatasetStage": "prepare.prepare"},
        place="dataset",
        title="images",
        record="manifest.json",
        files=ARRAYS,
        shared=lambda study: [{}],
        on_gpu=False,
        cost=lambda costs, key: costs.dataset(),
    ),
    Stage(
        name="classifier",
        command="train-classifier",
        help="train a small classifier with labels",
        revision="classifier",
        specs={"ClassifierStage": "train_classifier.train_classifier"},
        place="classifiers/{architecture}",
        title="{architecture}",
        record="classifier.json",
        files=("weights.safetensors", "history.csv"),
        shared=lambda study: [{"architecture": name} for name in study.scale.classifiers],
        inputs=lambda study, key: {"dataset": "dataset"},
        required=("dataset",),
        options=("resume",),
        comes_first=lambda key: key["architecture"] == "vgg",  # the longest chain of jobs begins with it
        precision="TF32",
        cost=lambda costs, key: costs.classifier(key),
    ),
    Stage(
        name="tokenizer",
        command="fit-tokenizer",
        help="fit a tokenizer to training patches",
        revision="tokenizer",
        specs={"TokenizerStage": "fit_tokenizer.fit_tokenizer"},
        place="tokenizers/{tokenizer}",
        title="{tokenizer}",
        record="tokenizer.json",
        files=("tokenizer.safetensors",),
        shared=lambda study: _tokenizers(study, convolutional=False),
        inputs=lambda study, key: {"dataset": "dataset"},
        required=("dataset",),
        on_gpu=False,
        precision="float64",
        cost=lambda costs, key: costs.tokenizer(key["tokenizer"]),
    ),
    Stage(
        name="convolutional_tokenizer",
        command="train-tokenizer",
        help="train a convolutional tokenizer and cache the training set's latents",
        revision="tokenizer",
        specs={"ConvolutionalStage": "train_tokenizer.train_tokenizer"},
        place="tokenizers/{tokenizer}",
        title="{tokenizer}",
        record="tokenizer.json",
        files=("tokenizer.safetensors", "latents.npy", "latents_checksums.npy", "history.csv"),
        shared=lambda study: _tokenizers(study, convolutional=True),
        inputs=lambda study, key: {
            "dataset": "dataset",
            "vgg": "classifiers/vgg" if study.needs_vgg(key["tokenizer"]) else None,
        },
        required=("dataset",),
        optional=("vgg",),
        options=("resume", "processes", "recompute"),
        precision="TF32",
        cost=lambda costs, key: costs.tokenizer(key["tokenizer"]),
    ),
    Stage(
        name="pretrain",
        command="pretrain",
        help="pretrain a row, resuming an interrupted run, or load its published weights",
        revision="pretrain",
        specs={
            "PretrainStage": "pretrain.pretrain",
            "AdoptStage": "pretrain.pretrain",
            "AdoptEncoderStage": "pretrain.pretrain",
            "BaselineStage": "pretrain.pretrain",
        },
        place="pretrain/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="run.json",
        files=("model.safetensors", "ema.safetensors", "history.csv"),
        absent=_absent_of_pretraining,
        serving=lambda study, row: study.runs[row],
        inputs=lambda study, key: {"dataset": "dataset", "tokenizer": _tokenizer(study, key["row"])},
        required=("dataset",),
        optional=("tokenizer",),
        options=("row", "seed", "resume", "processes", "micro_batch", "recompute"),
        precision="bfloat16",
        cost=lambda costs, key: costs.pretraining(key["row"]),
    ),
    Stage(
        name="probe",
        command="probe",
        help="probe a trained row and the same network with random weights",
        revision="probe",
        specs={"ProbeStage": "probe.probe"},
        place="probe/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="probe.json",
        files=("correct.npz",),
        serving=lambda study, row: study.probes[row],
        inputs=_trained,
        required=("dataset", "model"),
        optional=("tokenizer",),
        options=("row", "processes"),
        is_result=True,
        precision="bfloat16",
        cost=lambda costs, key: costs.probe(key),
    ),
    Stage(
        name="probe_pixels",
        command="probe-pixels",
        help="probe raw pixels, without a network",
        revision="probe",
        specs={"PixelsStage": "probe.probe_pixels"},
        place="probe/pixels",
        title="raw pixels",
        record="probe.json",
        files=("correct.npz",),
        shared=lambda study: [{}],
        inputs=lambda study, key: {"dataset": "dataset"},
        required=("dataset",),
        comes_first=lambda key: True,  # the first table has it
    ),
    Stage(
        name="finetune",
        command="finetune",
        help="fine-tune a trained row with labels, end to end, as a plain Vision Transformer",
        revision="finetune",
        specs={"FinetuneStage": "finetune.finetune"},
        place="finetune/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="finetune.json",
        files=("correct.npz", "history.csv"),
        serving=lambda study, row: row if study.variants[row].finetune else None,
        inputs=_trained,
        required=("dataset", "model"),
        optional=("tokenizer",),
        options=("row", "resume", "processes", "micro_batch"),
        is_result=True,
        precision="bfloat16",
        cost=lambda costs, key: costs.finetuning(key),
    ),
    Stage(
        name="sample",
        command="sample",
        help="sample images from a trained row",
        revision="sample",
        specs={"SampleStage": "sample.sample"},
        place="samples/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="samples.json",
        files=("samples.npy",),
        serving=_judged,
        inputs=_trained,
        required=("dataset", "tokenizer", "model"),
        options=("row", "processes"),
        precision="bfloat16",
        cost=lambda costs, key: costs.sampling(key["row"]),
    ),
    Stage(
        name="reference",
        command="reference",
        help="compute feature statistics of the real images",
        revision="judge",
        specs={"JudgeStage": "judge.reference"},
        place="judge/reference",
        title="true images",
        record="reference.json",
        files=("reference.npz",),
        shared=lambda study: [{}],
        inputs=lambda study, key: {"dataset": "dataset", "judge": _judge(study)},
        required=("dataset",),
        optional=("judge",),
        precision="TF32",
        cost=lambda costs, key: costs.judging(0 if costs.study.scale.judging.reference else costs.data.train),
    ),
    Stage(
        name="judge",
        command="judge",
        help="compute the Fréchet distance of samples from real images",
        revision="judge",
        specs={"JudgeStage": "judge.judge"},
        place="judge/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="distance.json",
        files=(),
        serving=_judged,
        inputs=lambda study, key: {
            "samples": f"samples/{key['row']}/seed{key['seed']}",
            "reference": "judge/reference",
            "judge": _judge(study),
        },
        required=("samples", "reference"),
        optional=("judge",),
        is_result=True,
        precision="TF32",
        cost=lambda costs, key: costs.judging(costs.study.scale.sampling.num),
    ),
    Stage(
        name="denoise",
        command="denoise-validation",
        help="denoise validation images",
        revision="denoise",
        specs={"DenoiseStage": "denoise.denoise"},
        place="denoise/{row}/seed{seed}",
        title="{row}, seed {seed}",
        record="pictures.json",
        files=("pictures.npz",),
        serving=lambda study, row: study.runs[row] if row in study.pictured else None,
        inputs=_trained,
        required=("dataset", "tokenizer", "model"),
        options=("row",),
        precision="bfloat16",
    ),
)
STAGES = {stage.name: stage for stage in ENTRIES}
RECORDS = {stage.record: stage.revision for stage in ENTRIES}  # the record that each stage leaves, and the stage
