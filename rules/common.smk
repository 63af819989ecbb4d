# The only functions of the graph, and the only place that reads `config`: from a command line to a checked study,
# and from wildcards to what each stage depends on.

import json
import sys
from pathlib import Path

ROOT = Path(workflow.basedir).parent
sys.path.insert(0, str(ROOT))

from ldae import driver
from ldae.variants import Study, StudyError

try:
    study = Study.load(ROOT, config)
except StudyError as error:
    sys.exit(str(error))  # raised, it would be three lines

RESULTS = f"results/{study.scale_name}"

if workflow.is_main_process:
    driver.clear_stale_locks(Path(".snakemake"))
driver.equip_jobs(ROOT)


wildcard_constraints:
    variant="|".join(study.variants),
    seed=r"\d+",
    tokenizer="|".join(study.tokenizer_stages()),
    table="|".join(study.file.tables) or "none",
    figure="|".join(study.file.figures) or "none",


def revision_of(stage):
    """The revision of a stage's code, as the study declares it."""
    return study.file.revisions[stage]


def tokenizer_spec(wildcards):
    """What fitting a tokenizer depends on."""
    return study.tokenizer_stages()[wildcards.tokenizer].to_json()


def pretrain_spec(wildcards):
    """What pretraining a row depends on."""
    return study.pretrain_stage(wildcards.variant).to_json()


def probe_spec(wildcards):
    """What probing a row depends on."""
    return study.probe_stage(wildcards.variant).to_json()


def tokenizer_of(wildcards):
    """The fit that a row's tokenizer needs."""
    return f"<results>/tokenizers/{study.variants[wildcards.variant].spec.tokenizer.name}/tokenizer.safetensors"


def priority_of(wildcards):
    """Rows that stand earlier in the study come first, and with them the first table."""
    return len(study.variants) - list(study.variants).index(wildcards.variant)


def tokenizer_priority_of(wildcards):
    """A tokenizer is as urgent as the first row that needs it."""
    names = [variant.spec.tokenizer.name for variant in study.variants.values()]
    return len(study.variants) - names.index(wildcards.tokenizer)


def probes_of(kind):
    """For a table or figure: the probes of its rows, for every seed."""

    def probes(wildcards):
        view = getattr(study.file, kind)[getattr(wildcards, kind.removesuffix("s"))]
        return expand(
            "<results>/probe/{variant}/seed{seed}/probe.json",
            variant=study.rows(view.rows),
            seed=study.file.seeds,
        )

    return probes


def definition_of(kind):
    """For a table or figure: its rows, labels, and the paper's numbers, as one canonical text."""

    def definition(wildcards):
        view = study.definition(kind, getattr(wildcards, kind.removesuffix("s")))
        return json.dumps(view, sort_keys=True, ensure_ascii=False)

    return definition


def default_rows():
    """The rows of the default tables and figures."""
    views = [*study.file.tables.values(), *study.file.figures.values()]
    return study.rows(name for view in views if view.default for name in view.rows)


def results_of_default_rows():
    """The result files of the default rows, whose cost is added up."""
    return expand(
        [
            "<results>/pretrain/{variant}/seed{seed}/run.json",
            "<results>/probe/{variant}/seed{seed}/probe.json",
        ],
        variant=default_rows(),
        seed=study.file.seeds,
    )


def tables_of(default):
    """The files of the tables, of the default ones or of all."""
    return [
        f"<results>/tables/{name}.md"
        for name, table in study.file.tables.items()
        if table.default >= default
    ]


def figures_of(default):
    """The files of the figures, of the default ones or of all."""
    return [
        f"<results>/figures/{name}.png"
        for name, figure in study.file.figures.items()
        if figure.default >= default
    ]
