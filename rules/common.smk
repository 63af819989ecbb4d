# The only functions of the graph, and the only place that reads `config`: from a command line to a checked study,
# and from wildcards to what each stage depends on.

import json
import sys
from pathlib import Path

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

from ldae import driver, tracking
from ldae.plan import Data, Forecast
from ldae.variants import Study, StudyError

try:
    study = Study.load(ROOT, config)
    tracking.check(study.scale.tracking)
except StudyError as error:
    sys.exit(str(error))  # raised, it would be three lines

RESULTS = f"results/{study.scale_name}"

if workflow.is_main_process:
    driver.clear_stale_locks(Path(".snakemake"))
driver.equip_jobs(ROOT, study.scale.tracking)

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
    seed=r"\d+",
    tokenizer=one_of(study.tokenizers),
    architecture=one_of(study.scale.classifiers),
    table=one_of(study.file.tables),
    figure=one_of(study.file.figures),


def revision_of(stage):
    """The revision of a stage's code, as the study declares it."""
    return study.file.revisions[stage]


def tokenizer_spec(wildcards):
    """What fitting a tokenizer depends on."""
    return study.tokenizers[wildcards.tokenizer].to_json()


def classifier_spec(wildcards):
    """What training a small classifier depends on."""
    return study.classifier_stage(wildcards.architecture).to_json()


def pretrain_spec(wildcards):
    """What pretraining a row depends on."""
    return study.pretrain_stage(wildcards.variant).to_json()


def probe_spec(wildcards):
    """What probing a row depends on."""
    return study.probe_stage(wildcards.variant).to_json()


def finetune_spec(wildcards):
    """What fine-tuning a row depends on."""
    return study.finetune_stage(wildcards.variant).to_json()


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
    """A classifier is as urgent as the first row whose tokenizer, or whose samples, need it: a long chain hangs on it."""
    for place, row in enumerate(study.urgency):
        variant = study.variants[row]
        judged = variant.fid and wildcards.architecture == "resnet"
        perceived = (
            wildcards.architecture == "vgg"
            and study.is_denoiser(row)
            and study.needs_vgg(variant.spec.tokenizer.name)
        )
        if judged or perceived:
            return len(study.urgency) - place
    return 0


def view_of(kind, wildcards):
    """The table or figure that a job is to make."""
    return getattr(study.file, kind)[getattr(wildcards, kind.removesuffix("s"))]


def shows_accuracy(view):
    """Whether a table or figure is made from probes."""
    return getattr(view, "kind", "table") in ("table", "dimension", "trajectory")


def probes_for(names):
    """The probes of rows, for every seed."""
    rows = dict.fromkeys(study.probes[row] for row in study.rows(names))
    return expand(
        "<results>/probe/{row}/seed{seed}/probe.json", row=rows, seed=study.file.seeds
    )


def finetunes_for(names):
    """The fine-tunings of those rows that are fine-tuned, for every seed."""
    rows = [row for row in study.rows(names) if study.variants[row].finetune]
    return expand(
        "<results>/finetune/{row}/seed{seed}/finetune.json",
        row=rows,
        seed=study.file.seeds,
    )


def distances_for(names):
    """The judged samples of those rows that are sampled from, for every seed."""
    rows = dict.fromkeys(
        study.runs[row] for row in study.rows(names) if study.variants[row].fid
    )
    return expand(
        "<results>/judge/{row}/seed{seed}/distance.json",
        row=rows,
        seed=study.file.seeds,
    )


def first_of(kind, names, file):
    """A file of each row's first seed."""
    rows = dict.fromkeys(study.runs[row] for row in study.rows(names))
    return [f"<results>/{kind}/{row}/seed{study.file.seeds[0]}/{file}" for row in rows]


def dataset_of(kind):
    """For a table or figure: the prepared images, where it is made from probes."""
    return lambda wildcards: (
        "<results>/dataset/manifest.json"
        if shows_accuracy(view_of(kind, wildcards))
        else []
    )


def pixels_of(kind):
    """For a table or figure: the probe of raw pixels, where it is made from probes."""
    return lambda wildcards: (
        "<results>/probe/pixels/probe.json"
        if shows_accuracy(view_of(kind, wildcards))
        else []
    )


def probes_of(kind):
    """For a table or figure: the probes that it shows."""

    def probes(wildcards):
        view = view_of(kind, wildcards)
        return probes_for(view.names) if shows_accuracy(view) else []

    return probes


def distances_of(kind):
    """For a table or figure: the judged samples that it shows."""

    def distances(wildcards):
        view = view_of(kind, wildcards)
        if getattr(view, "kind", "table") not in ("table", "trajectory") or getattr(
            view, "series", None
        ):
            return []
        return distances_for(view.names)

    return distances


def finetunes_of_table(wildcards):
    """For a table of rows: the fine-tunings that it shows."""
    table = study.file.tables[wildcards.table]
    return finetunes_for(table.names) if table.series is None else []


def files_of_figure(kinds, folder, file):
    """For a figure of one of these kinds: a file of each of its rows."""

    def files(wildcards):
        view = study.file.figures[wildcards.figure]
        return first_of(folder, view.names, file) if view.kind in kinds else []

    return files


def fits_of_figure(wildcards):
    """For a figure with filters: the fits of the tokenizers that they belong to."""
    rows = getattr(study.file.figures[wildcards.figure], "filters", {}).values()
    names = dict.fromkeys(study.variants[row].spec.tokenizer.name for row in rows)
    return [f"<results>/tokenizers/{name}/tokenizer.safetensors" for name in names]


def tokenizers_of_table(wildcards):
    """The records of a table's tokenizers: of all where they are compared, else of those with a perceptual loss."""
    table = study.file.tables[wildcards.table]
    tokenizers = [study.variants[row].spec.tokenizer for row in study.rows(table.names)]
    names = dict.fromkeys(
        tokenizer.name
        for tokenizer in tokenizers
        if table.series is not None or tokenizer.perceptual
    )
    return [f"<results>/tokenizers/{name}/tokenizer.json" for name in names]


def definition_of(kind):
    """For a table or figure: its rows, labels, and the paper's numbers, as one canonical text."""

    def definition(wildcards):
        view = study.definition(kind, getattr(wildcards, kind.removesuffix("s")))
        return json.dumps(view, sort_keys=True, ensure_ascii=False)

    return definition


def names_of_claims():
    """The rows and sweeps that the claims speak of."""
    return list(
        dict.fromkeys(
            name for claim in study.file.claims.values() for name in claim.names
        )
    )


def views_of(*targets):
    """The tables and figures that belong to these common targets."""
    views = [*study.file.tables.values(), *study.file.figures.values()]
    return [view for view in views if view.target in targets]


def records_of(rows):
    """The records of all jobs that rows need, the prepared images aside."""
    no_data = Data(
        train=0, val=0, classes=0, known=False
    )  # whose size says nothing of which jobs there are
    jobs = Forecast(study, Path(RESULTS), no_data).jobs(rows)
    return [str(job.record) for job in jobs if job.stage != "dataset"]


def results_of(*targets):
    """The records of all jobs of these targets, whose cost is added up."""
    names = dict.fromkeys(name for view in views_of(*targets) for name in view.names)
    return records_of(study.rows(names))


def tables_of(*targets):
    """The files of the tables of these targets."""
    return [
        f"<results>/tables/{name}.md"
        for name, table in study.file.tables.items()
        if table.target in targets
    ]


def views_on_page(*targets):
    """All files of the tables, figures and claims of these targets that their page shows."""
    endings = {"tables": ("md", "csv"), "figures": ("png", "svg", "csv")}
    pages = [
        *tables_of(*targets),
        *figures_of(*targets),
        *(CLAIMS if "all" in targets else []),
    ]
    return [
        str(Path(view).with_suffix(f".{ending}"))
        for view in pages
        for ending in endings[Path(view).parent.name]
    ]


def rows_on_page(*targets):
    """The rows that the page of these targets speaks of."""
    return [row["name"] for row in study.page(*targets)["rows"]]


def shared_by(rows):
    """The records of what all rows are measured on and against."""
    if not rows:
        return []
    return ["<results>/dataset/manifest.json", "<results>/probe/pixels/probe.json"]


def figures_of(*targets):
    """The files of the figures of these targets."""
    return [
        f"<results>/figures/{name}.png"
        for name, figure in study.file.figures.items()
        if figure.target in targets
    ]


CLAIMS = ["<results>/tables/claims.md"] if study.file.claims else []
