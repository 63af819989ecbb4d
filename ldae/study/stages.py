"""The table of stages: for each its command, its inputs and outputs, the rows that need it, and its cost.

Lineages, jobs, plan, status, the inputs of rules and the options of commands all follow from these entries. A new stage
is an entry, a function in `ldae/stages/` and a rule. This module imports nothing heavy, because `ldae --help` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ldae.study.base import Config
    from ldae.study.cost import Costs
    from ldae.study.study import Study

SHARED_SEED = 0  # of the parts that all replications share
Key = dict[str, Any]  # which job of a stage: its `row`, `tokenizer` or `architecture`, and its `seed`
Place = Callable[["Study", Key], str | None]


class InputFolder(NamedTuple):
    """An option of commands whose value is the folder of an earlier result."""

    help: str
    record: str  # the file in the folder with the result's lineage
    is_optional: bool = False


FOLDERS = {
    "dataset": InputFolder("the prepared images", "manifest.json"),
    "tokenizer": InputFolder("the fitted tokenizer, for a row that has one", "tokenizer.json", is_optional=True),
    "vgg": InputFolder(
        "the classifier of the perceptual loss, if the graph trains it", "classifier.json", is_optional=True
    ),
    "model": InputFolder("the trained row", "run.json"),
    "samples": InputFolder("a row's samples", "samples.json"),
    "reference": InputFolder("the feature statistics of the real images", "reference.json"),
    "judge": InputFolder("the classifier of the features, if the graph trains it", "classifier.json", is_optional=True),
}


class Cost(NamedTuple):
    """The cost of a job."""

    flops: float = 0.0
    disk: float = 0.0  # bytes that it leaves


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the graph; an empty field has a default that follows from the name or the command."""

    name: str  # of its rule
    command: str = ""  # `ldae <command>`; by default the name
    help: str
    revision: str = ""  # its key in the study's `revisions` and in lineages; by default the name
    function: str = ""  # of `ldae.stages`, as "<module>.<function>"; by default both are the command
    # The settings of a job: the classes of `ldae.study.stage_specs` that they can be, and the function that gives those
    # of a job, by default `for_job` of the first class.
    specs: tuple[str, ...]
    spec_of: Callable[[Study, Key], Config] | None = None
    place: str = ""  # where its result lies in the results folder; by default "<name>/{row}/seed{seed}"
    title: str = "{row}, seed {seed}"  # of a job, for a reader
    record: str = ""  # the file with a result's lineage; by default "<name>.json"
    files: tuple[str, ...] = ()  # the other files that later jobs or people read
    absent: Callable[[Study, Key], Collection[str]] = lambda study, key: ()  # those of them that a job does not write
    # Which jobs a study needs. For a stage with jobs per row and seed, `serving` gives the row whose job provides the
    # result of a row (rows that differ only in what is probed share one training), or None if the row needs no job. For
    # any other stage, `other_keys` gives the keys of its jobs.
    serving: Callable[[Study, str], str | None] | None = None
    other_keys: Callable[[Study], Iterable[Key]] = lambda study: [{}]
    # The places of the earlier results that a job reads, by option: each a pattern, or a function that returns the
    # place, or None for a job that does not need it.
    inputs: Mapping[str, str | Place] = field(default_factory=dict)
    # Further options of the command: row, seed, resume, processes, micro_batch, recompute.
    options: tuple[str, ...] = ()
    on_gpu: bool = True  # where the scale names GPUs; one, or with `processes` all of them
    precision: str = "float32"  # of its inner loop, as `ldae.runtime.machine` names it
    cost: Callable[[Costs, Key], Cost] = lambda costs, key: Cost()
    is_result: bool = False  # whether tables show its numbers of a row
    comes_first: Callable[[Key], bool] = lambda key: False  # whether a job starts before those of all rows

    def __post_init__(self) -> None:
        command = self.command or self.name
        module = command.replace("-", "_")
        defaults = {
            "command": command,
            "revision": self.name,
            "function": f"{module}.{module}",
            "place": f"{self.name}/{{row}}/seed{{seed}}",
            "record": f"{self.name}.json",
        }
        for name, value in defaults.items():
            object.__setattr__(self, name, getattr(self, name) or value)

    def keys(self, study: Study) -> list[Key]:
        """The jobs that a study needs; those of one seed come before those of the next."""
        if self.serving is None:
            return list(self.other_keys(study))
        served: dict[str, list[str]] = {}
        for name in study.variants:
            if (row := self.serving(study, name)) is not None:
                served.setdefault(row, []).append(name)
        seeds = {row: study.seeds_of(names) for row, names in served.items()}
        return [{"row": row, "seed": seed} for seed in study.file.seeds for row in served if seed in seeds[row]]

    def key_of(self, place: str) -> Key | None:
        """The job whose result lies at a place of the results folder; None if the place is another stage's."""
        pattern = self.place.replace("{seed}", r"(?P<seed>0|[1-9]\d*)")
        match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern), place)
        if match is None:
            return None
        return {name: int(value) if name == "seed" else value for name, value in match.groupdict().items()}

    def places(self, study: Study, key: Key) -> dict[str, str]:
        """The places of the earlier results that a job reads, by option."""
        places = {
            option: place.format(**key) if isinstance(place, str) else place(study, key)
            for option, place in self.inputs.items()
        }
        return {option: place for option, place in places.items() if place is not None}

    def spec(self, study: Study, key: Key) -> Config:
        """The settings of a job, from its row and the scale."""
        from ldae.study import stage_specs

        spec: Config = (self.spec_of or getattr(stage_specs, self.specs[0]).for_job)(study, key)
        return spec

    def lineage_key(self, spec: Config) -> str:
        """The key of a job in lineages: its stage's revision; for a classifier, its architecture."""
        key: str = getattr(spec, "architecture", self.revision)
        return key


def _tokenizer(study: Study, key: Key) -> str | None:
    """The place of a row's tokenizer; None for a method without one."""
    run = study.runs[key["row"]]
    if not study.is_denoiser(run):
        return None
    return f"tokenizers/{study.variants[run].spec.tokenizer.name}/seed{study.seed_of('tokenizer', key['seed'])}"


def _vgg(study: Study, key: Key) -> str | None:
    """The place of the classifier of a tokenizer's perceptual loss; None for a tokenizer that needs none."""
    if not study.tokenizers[key["tokenizer"]].needs_vgg:
        return None
    return f"classifiers/vgg/seed{study.seed_of('classifier', key['seed'])}"


def _judge(study: Study, key: Key) -> str | None:
    """The place of the classifier that judges samples; None if published weights do."""
    return f"classifiers/resnet/seed{SHARED_SEED}" if study.scale.judging.features == "builtin" else None


def _absent_of_pretraining(study: Study, key: Key) -> list[str]:
    """The files that a pretraining does not write: only a denoiser has averaged weights, only a training a history."""
    ema = [] if study.is_denoiser(key["row"]) else ["ema.safetensors"]
    return [*ema, *(["history.csv"] if study.is_published(key["row"]) else [])]


def _tokenizers(study: Study, *, is_trained: bool) -> list[Key]:
    rows: dict[str, list[str]] = {name: [] for name in study.tokenizers}
    for row, variant in study.variants.items():
        if study.is_denoiser(row):
            rows[variant.spec.tokenizer.name].append(row)
    seeds = {name: study.seeds_of(rows[name]) for name in rows}
    pairs = [
        (name, study.seed_of("tokenizer", seed))
        for seed in study.file.seeds
        for name, stage in study.tokenizers.items()
        if stage.is_trained == is_trained and seed in seeds[name]
    ]
    return [{"tokenizer": name, "seed": seed} for name, seed in dict.fromkeys(pairs)]


def _classifiers(study: Study) -> list[Key]:
    places = [_vgg(study, key) for key in _tokenizers(study, is_trained=True)]
    seeds = {int(place.rpartition("seed")[2]) for place in places if place is not None}
    judge = [{"architecture": "resnet", "seed": SHARED_SEED}] if _judge(study, {}) else []
    return [{"architecture": "vgg", "seed": seed} for seed in sorted(seeds)] + judge


def _judged(study: Study, row: str) -> str | None:
    """The row whose samples are judged for a row; None if the study needs none."""
    return study.runs[row] if study.variants[row].fid else None


TRAINED: dict[str, str | Place] = {  # the inputs of a job that evaluates a trained row
    "dataset": "dataset",
    "tokenizer": _tokenizer,
    "model": lambda study, key: f"pretrain/{study.runs[key['row']]}/seed{key['seed']}",
}
ARRAYS = tuple(f"{name}.npy" for name in ("images", "images_checksums", "labels", "groups", "parts"))
ENTRIES = (
    Stage(
        name="dataset",
        command="prepare",
        help="prepare the images of a data set",
        specs=("DatasetStage",),
        place="dataset",
        title="images",
        record="manifest.json",
        files=ARRAYS,
        on_gpu=False,
        cost=lambda costs, key: costs.dataset(),
    ),
    Stage(
        name="classifier",
        command="train-classifier",
        help="train a small classifier with labels",
        specs=("ClassifierStage",),
        place="classifiers/{architecture}/seed{seed}",
        title="{architecture}, seed {seed}",
        files=("weights.safetensors", "history.csv"),
        other_keys=_classifiers,
        inputs={"dataset": "dataset"},
        options=("seed", "resume"),
        comes_first=lambda key: key["architecture"] == "vgg",  # the longest chain of jobs begins with it
        precision="TF32",
        cost=lambda costs, key: costs.classifier(key),
    ),
    Stage(
        name="tokenizer",
        command="fit-tokenizer",
        help="fit a tokenizer to training patches",
        specs=("TokenizerStage",),
        spec_of=lambda study, key: study.tokenizers[key["tokenizer"]],
        place="tokenizers/{tokenizer}/seed{seed}",
        title="{tokenizer}, seed {seed}",
        files=("tokenizer.safetensors",),
        other_keys=lambda study: _tokenizers(study, is_trained=False),
        inputs={"dataset": "dataset"},
        options=("seed",),
        on_gpu=False,
        precision="float64",
        cost=lambda costs, key: costs.tokenizer(key["tokenizer"]),
    ),
    Stage(
        name="convolutional_tokenizer",
        command="train-tokenizer",
        help="train a convolutional tokenizer and cache the training set's latents",
        revision="tokenizer",
        specs=("ConvolutionalStage",),
        spec_of=lambda study, key: study.tokenizers[key["tokenizer"]],
        place="tokenizers/{tokenizer}/seed{seed}",
        title="{tokenizer}, seed {seed}",
        record="tokenizer.json",
        files=("tokenizer.safetensors", "latents.npy", "latents_checksums.npy", "history.csv"),
        other_keys=lambda study: _tokenizers(study, is_trained=True),
        inputs={"dataset": "dataset", "vgg": _vgg},
        options=("seed", "resume", "processes", "recompute"),
        precision="TF32",
        cost=lambda costs, key: costs.tokenizer(key["tokenizer"]),
    ),
    Stage(
        name="pretrain",
        help="pretrain a row, resuming an interrupted run, or load its published weights",
        specs=("PretrainStage", "AdoptStage", "BaselineStage"),
        spec_of=lambda study, key: study.pretraining(key["row"]),
        record="run.json",
        files=("model.safetensors", "ema.safetensors", "history.csv"),
        absent=_absent_of_pretraining,
        serving=lambda study, row: study.runs[row],
        inputs={"dataset": "dataset", "tokenizer": _tokenizer},
        options=("row", "seed", "resume", "processes", "micro_batch", "recompute"),
        precision="bfloat16",
        cost=lambda costs, key: costs.pretraining(key["row"]),
    ),
    Stage(
        name="probe",
        help="probe a trained row",
        specs=("ProbeStage",),
        files=("correct.npz",),
        serving=lambda study, row: study.probes[row],
        inputs=TRAINED,
        options=("row", "processes"),
        is_result=True,
        precision="bfloat16",
        cost=lambda costs, key: costs.probe(key),
    ),
    Stage(
        name="probe_untrained",
        command="probe-untrained",
        help="probe an untrained network, for all rows that start from it",
        revision="probe",
        function="probe.probe_untrained",
        specs=("UntrainedStage",),
        place="untrained/{row}/seed{seed}",
        title="untrained {row}, seed {seed}",
        record="probe.json",
        files=("correct.npz",),
        serving=lambda study, row: study.untrained[row],
        inputs={"dataset": "dataset", "tokenizer": _tokenizer},
        options=("row", "seed", "processes"),
        is_result=True,
        precision="bfloat16",
        cost=lambda costs, key: costs.untrained_probe(key),
    ),
    Stage(
        name="probe_pixels",
        command="probe-pixels",
        help="probe raw pixels, without a network",
        revision="probe",
        function="probe.probe_pixels",
        specs=("PixelsStage",),
        place="pixels/seed{seed}",
        title="raw pixels, seed {seed}",
        record="probe.json",
        files=("correct.npz",),
        other_keys=lambda study: [{"seed": seed} for seed in study.seeds_of(study.variants)],
        inputs={"dataset": "dataset"},
        options=("seed",),
        comes_first=lambda key: True,  # the first table has it
    ),
    Stage(
        name="finetune",
        help="fine-tune a trained row with labels, end to end, as a plain Vision Transformer",
        specs=("FinetuneStage",),
        files=("correct.npz", "history.csv"),
        serving=lambda study, row: row if study.variants[row].finetune else None,
        inputs=TRAINED,
        options=("row", "resume", "processes", "micro_batch"),
        is_result=True,
        precision="bfloat16",
        cost=lambda costs, key: costs.finetuning(key),
    ),
    Stage(
        name="sample",
        help="sample images from a trained row",
        specs=("SampleStage",),
        place="samples/{row}/seed{seed}",
        record="samples.json",
        files=("samples.npy", "examples.npy"),
        serving=_judged,
        inputs=TRAINED,
        options=("row", "processes"),
        precision="bfloat16",
        cost=lambda costs, key: costs.sampling(key["row"]),
    ),
    Stage(
        name="reference",
        help="compute feature statistics of the real images",
        revision="judge",
        function="judge.reference",
        specs=("JudgeStage",),
        place="judge/reference",
        title="true images",
        files=("reference.npz",),
        inputs={"dataset": "dataset", "judge": _judge},
        precision="TF32",
        cost=lambda costs, key: costs.judging(0 if costs.study.scale.judging.reference else costs.data.train),
    ),
    Stage(
        name="judge",
        help="compute the Fréchet distance of samples from real images",
        specs=("JudgeStage",),
        record="distance.json",
        serving=_judged,
        inputs={"samples": "samples/{row}/seed{seed}", "reference": "judge/reference", "judge": _judge},
        is_result=True,
        precision="TF32",
        cost=lambda costs, key: costs.judging(costs.study.scale.sampling.num),
    ),
    Stage(
        name="denoise",
        command="denoise-validation",
        help="denoise validation images",
        function="denoise.denoise",
        specs=("DenoiseStage",),
        record="pictures.json",
        files=("pictures.npz",),
        serving=lambda study, row: study.runs[row] if row in study.pictured else None,
        inputs=TRAINED,
        options=("row",),
        precision="bfloat16",
    ),
)
STAGES = {stage.name: stage for stage in ENTRIES}
RECORDS = {stage.record: stage.revision for stage in ENTRIES}  # the record that each stage leaves, and the stage
