# The only functions of the graph, and the only place that reads `config`: from a command line to a checked study,
# and from wildcards to what each stage depends on.

import json
import sys
from pathlib import Path

from snakemake import persistence

ROOT = Path(workflow.basedir).parent
sys.path[:0] = [str(ROOT), workflow.basedir]

import staleness
import driver
from ldae.runtime import locking
from ldae.study.record import digest
from ldae.study.graph import Graph
from ldae.study.checking import StudyError
from ldae.study.study import Study

try:
    study = Study.load(ROOT, config)
except StudyError as error:
    sys.exit(str(error))  # raised, it would be three lines

RESULTS = str(study.results)
graph = Graph(study)

if workflow.is_main_process:
    staleness.decide_by_records(graph)
if workflow.is_main_process and not graph.is_current(graph.jobs["dataset"]):
    driver.tell_of_images(study.scale.dataset)
locking.lock_for_the_living(getattr(persistence, "PersistenceBase", None))
driver.equip_jobs(ROOT, gpus=study.scale.resources.gpu)
driver.tell_of_slurm(main=workflow.is_main_process, nodes=study.scale.resources.nodes)

# What preparing the images may use: all that --cores gives to a local run; on a cluster, where nobody says --cores to
# the driver and a job sees all of its node's, as many as any other job.
ALL_CORES = (
    workflow.is_main_process and workflow.resource_settings.cores
) or study.scale.resources.threads

RUNS = list(dict.fromkeys(study.runs.values()))
TRAINED = [run for run in RUNS if not study.is_published(run)]
PUBLISHED = [run for run in RUNS if study.is_published(run)]
CONVOLUTIONAL = [name for name in study.tokenizers if study.is_convolutional(name)]
FITTED = [name for name in study.tokenizers if not study.is_convolutional(name)]


# What a job of several processes asks for. `gpu` is the number of all of them, and of the GPUs of all nodes, which `gres`
# spreads evenly. With `mpi` the plugin starts the command once, on the first node, and leaves the others to it (`ldae`
# calls srun); it wants `tasks` then, and makes them tasks of each GPU unless it is told not to. A job of one node says
# so: Slurm may take `--gpus` from several.
PROCESSES = study.scale.resources.processes
ONE_GPU = min(1, study.scale.resources.gpu)
SEVERAL_NODES = (
    {
        "nodes": study.scale.resources.nodes,
        "gres": f"gpu:{study.scale.resources.gpu}",
        "mpi": "srun",
        "tasks": study.scale.resources.nodes,
        "tasks_per_gpu": 0,
    }
    if study.scale.resources.nodes > 1
    else {"nodes": 1}
)


def one_of(names):
    """A regular expression that matches these names alone."""
    return "|".join(names) or "none"


def denoisers(runs):
    """A regular expression that matches those of these runs that are denoisers."""
    return one_of([run for run in runs if study.is_denoiser(run)])


def baselines(runs):
    """The same for those of the methods that the paper compares with."""
    return one_of([run for run in runs if not study.is_denoiser(run)])


wildcard_constraints:
    variant=one_of(study.variants),
    seed=r"0|[1-9]\d*",
    tokenizer=one_of(study.tokenizers),
    architecture=one_of(study.scale.classifiers),
    table=one_of(study.file.tables),
    figure=one_of(study.file.figures),


def revision_of(stage):
    """The revision of a stage's code, as the study declares it."""
    return study.file.revisions[stage]


def lineage_of(function):
    """The digest of what a result should be made from, by a method of the study that takes the job's only name."""

    def lineage(wildcards):
        names = [value for key, value in wildcards.items() if key != "seed"]
        return digest(function(*names))

    return lineage


def spec_of(function):
    """What a stage reads of a row and of the scale, as canonical JSON, by a method of the study."""

    def spec(wildcards):
        return function(wildcards.variant).to_json()

    return spec


def tokenizer_spec(wildcards):
    """What fitting a tokenizer depends on."""
    return study.tokenizers[wildcards.tokenizer].to_json()


def classifier_spec(wildcards):
    """What training a small classifier depends on."""
    return study.classifier_stage(wildcards.architecture).to_json()


def tokenizer_of(wildcards):
    """The files of the tokenizer that a row's network is given; none for a method that has no tokenizer."""
    run = study.runs[wildcards.variant]
    if not study.is_denoiser(run):
        return []
    return f"<results>/tokenizers/{study.variants[run].spec.tokenizer.name}/tokenizer.safetensors"


def latents_of(wildcards):
    """The cached latents that a row is trained on; none where it is trained on images."""
    spec = study.variants[wildcards.variant].spec
    if spec.tokenizer.kind != "conv" or spec.recipe.crop == "random":
        return []
    return f"<results>/tokenizers/{spec.tokenizer.name}/latents.npy"


def centres_of(wildcards):
    """The cached latents of the training images, which a probe looks at; none for a tokenizer that is not trained."""
    run = study.runs[wildcards.variant]
    if not study.is_denoiser(run):
        return []
    tokenizer = study.variants[run].spec.tokenizer.name
    return (
        f"<results>/tokenizers/{tokenizer}/latents.npy"
        if study.is_convolutional(tokenizer)
        else []
    )


def tokenizer_option(wildcards):
    """The same tokenizer, as an option of a command."""
    run = study.runs[wildcards.variant]
    if not study.is_denoiser(run):
        return ""
    return f"--tokenizer {RESULTS}/tokenizers/{study.variants[run].spec.tokenizer.name}"


def vgg_of(wildcards):
    """The classifier whose features a tokenizer's perceptual loss compares, where it is the study's own."""
    return (
        "<results>/classifiers/vgg/weights.safetensors"
        if study.needs_vgg(wildcards.tokenizer)
        else []
    )


def vgg_option(wildcards):
    """The same classifier, as an option of a command."""
    return (
        f"--vgg {RESULTS}/classifiers/vgg"
        if study.needs_vgg(wildcards.tokenizer)
        else ""
    )


def model_of(wildcards):
    """The weights that a probe looks at: rows that differ in what is probed share them."""
    return f"<results>/pretrain/{study.runs[wildcards.variant]}/seed{wildcards.seed}/model.safetensors"


BUILTIN_JUDGE = study.scale.judging.features == "builtin"
JUDGE = "<results>/classifiers/resnet/weights.safetensors" if BUILTIN_JUDGE else []
JUDGE_OPTION = f"--judge {RESULTS}/classifiers/resnet" if BUILTIN_JUDGE else ""


AT_ONCE = len(study.urgency) + 1  # the priority of what is not to wait for any row


def priority_of(wildcards):
    """Rows of the main tables and figures come first, in their order."""
    return len(study.urgency) - study.urgency.index(wildcards.variant)


def tokenizer_priority_of(wildcards):
    """A tokenizer is as urgent as the first row that needs it."""
    for place, row in enumerate(study.urgency):
        if (
            study.is_denoiser(row)
            and study.variants[row].spec.tokenizer.name == wildcards.tokenizer
        ):
            return len(study.urgency) - place
    return 0


def classifier_priority_of(wildcards):
    """The perceptual network comes first: the longest chain begins with it. The judge is as urgent as what it judges."""
    if wildcards.architecture == "vgg":
        return AT_ONCE
    judged = [row for row in study.urgency if study.variants[row].fid]
    return len(study.urgency) - study.urgency.index(judged[0]) if judged else 0


VIEW_INPUTS = {  # the options of the commands that write views
    "tables": ("dataset", "pixels", "probes", "finetunes", "distances", "tokenizers"),
    "figures": (
        "dataset",
        "pixels",
        "probes",
        "distances",
        "histories",
        "pictures",
        "samples",
        "tokenizers",
    ),
    "claims": ("dataset", "pixels", "probes", "distances"),
}


def files_of(kind, place):
    """The files that a view reads: those that its command names, by its options, and what it opens beside them."""
    named = graph.command_files(place)
    files = {
        option: [str(path) for _, path in named.get(option, ())]
        for option in VIEW_INPUTS[kind]
    }
    given = {file for paths in files.values() for file in paths}
    return files | {"beside": [file for file in read_by(place) if file not in given]}


def read_by(place):
    """All files that a view reads."""
    return [str(path) for paths in graph.jobs[place].reads.values() for path in paths]


def inputs_of(kind):
    """The same as an input function, for a table or figure by its wildcard."""
    return lambda wildcards: files_of(kind, f"{kind}/{wildcards[0]}")


def definition_of(kind):
    """For a table or figure: its rows, labels, and the paper's numbers, as one canonical text."""

    def definition(wildcards):
        return canonical(graph.jobs[f"{kind}/{wildcards[0]}"].definition)

    return definition


def canonical(definition):
    """A view's definition as one canonical text, in ASCII: a locale without Unicode would spoil a command's words."""
    return json.dumps(definition, sort_keys=True)


def results_of_target(target):
    """The first file of each view of a common target."""
    return [str(graph.jobs[place].files[0]) for place in graph.views_of(target)]
