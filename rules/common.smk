# The only functions of the workflow, and the only place that reads `config`: from a command line to a checked study, and
# from the study's graph to the inputs, options and resources of each job.

import shlex
import sys
from pathlib import Path

from snakemake import persistence
from snakemake.dag import DAG

ROOT = Path(workflow.basedir).parent
sys.path[:0] = [str(ROOT), workflow.basedir]

import driver
import staleness
from ldae.overview.state import State
from ldae.study.graph import PAGES, Graph, options
from ldae.study.stages import STAGES
from ldae.study.study import Study, StudyError

try:
    study = Study.load(ROOT, config)
except StudyError as error:
    sys.exit(str(error))  # raised, it would be three lines

RESULTS = str(study.results)
graph = Graph(study)
state = State(graph)

if workflow.is_main_process:
    staleness.decide_by_records(state)
    driver.check_targets(DAG, graph)
if workflow.is_main_process and not state.is_current(graph.jobs["dataset"]):
    driver.warn_about_images(study.scale.dataset)
driver.ignore_stale_locks(getattr(persistence, "PersistenceBase", None))
driver.set_job_environment(ROOT, gpus=study.scale.resources.gpu)
driver.set_slurm_environment(
    main=workflow.is_main_process, nodes=study.scale.resources.nodes
)

# What preparing the images may use: all that --cores gives to a local run; on a cluster, where nobody says --cores to
# the driver and a job sees all of its node's, as many as any other job.
ALL_CORES = (
    workflow.is_main_process and workflow.resource_settings.cores
) or study.scale.resources.threads


def one_of(names):
    """A regular expression that matches these names alone."""
    return "|".join(names) or "none"


wildcard_constraints:
    row=one_of(study.variants),
    seed=r"0|[1-9]\d*",
    tokenizer=one_of(study.tokenizers),
    architecture=one_of(study.scale.classifiers),
    table=one_of(study.file.tables),
    figure=one_of(study.file.figures),
    variation=one_of(study.variations),
    cost=one_of(cost for cost, _ in PAGES.values()),
    page=one_of(PAGES),


def names_of(stage):
    """A regular expression that matches the tokenizers that a stage fits or trains."""
    return one_of(dict.fromkeys(key["tokenizer"] for key in STAGES[stage].keys(study)))


def job_of(stage, wildcards):
    """The job of a stage that a rule's wildcards name."""
    return graph.job_at(STAGES[stage].place.format(**wildcards))


def records_read_by(job):
    """The records of the results that a job reads; which of their files it opens, the graph knows."""
    return [str(before.record) for before in job.reads]


def inputs_of(stage):
    """The inputs of a stage's rule."""
    return lambda wildcards: records_read_by(job_of(stage, wildcards))


def options_of(stage):
    """What the command of a stage's rule is told."""
    return lambda wildcards: shlex.join(options(graph, job_of(stage, wildcards)))


def priority_of(stage):
    """How urgent a job is: rows of the main tables and figures come first, in their order."""
    return lambda wildcards: graph.priority(job_of(stage, wildcards))


def resources_of(stage):
    """What a job asks of the machine, besides threads."""
    return study.scale.resources.of(STAGES[stage])


AT_ONCE = len(study.urgency) + 1  # the priority of tables and figures


def inputs_of_view(place):
    """The inputs of a view's rule; `{0}` in the place stands for its wildcard."""
    return lambda wildcards: records_read_by(graph.jobs[place.format(*wildcards)])


def options_of_view(place):
    """What the command of a view's rule is told."""
    return lambda wildcards: shlex.join(
        options(graph, graph.jobs[place.format(*wildcards)])
    )


def targets_of_views():
    """The names of tables, figures, costs and pages, and the first file of each; the claims' rule has their name."""
    views = [job for job in graph.jobs.values() if job.is_view]
    return [(job.name, str(job.files[0])) for job in views if job.stage != "claims"]


def results_of_target(target):
    """The first file of each view of a common target."""
    return [str(graph.jobs[place].files[0]) for place in graph.views_of(target)]
