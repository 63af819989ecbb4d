"""Lets the records of results decide which jobs Snakemake runs, in the place of its notes and of the files' times."""

import sys
from importlib.metadata import version
from pathlib import Path

from snakemake.dag import DAG

from ldae.overview.state import needrun

# What this module reads and replaces of Snakemake's graph, which is not part of its interface.
PARTS = ("update_needrun", "toposorted", "finished", "reason", "dependencies")


def decide_by_records(state):
    """Replaces Snakemake's decision in this process by what the records say; `state` is the study's.

    Snakemake compares a job's parameters with notes in `.snakemake/metadata` and its inputs' times with its outputs'.
    Results that were copied, or whose notes are gone, would be taken for current whatever the study says. The options
    that force jobs, and those that leave some out, work as before.
    """
    if absent := [part for part in PARTS if not hasattr(DAG, part)]:
        sys.exit(
            f"snakemake {version('snakemake')}: has no DAG.{absent[0]}, which decides here what runs; "
            "install the version in constraints.txt"
        )

    async def update_needrun(dag, create_inventory=False):
        if create_inventory:
            await dag.workflow.iocache.mtime_inventory(dag.jobs)
        jobs = [
            job
            for level in reversed(list(dag.toposorted()))
            for job in level
            if not dag.finished(job) and _is_allowed(dag, job)
        ]
        found = {job: state.graph.producer(map(Path, job.output)) for job in jobs}
        missing = {file for job in jobs for file in job.output if not await file.exists()}
        missing.update(str(path) for known in found.values() if known is not None for path in state.missing(known))
        outdated = {job: known and state.outdated(known) for job, known in found.items()}
        targets = set(dag.targetjobs).union(*(dag.dependencies[job] for job in jobs if job.is_norun))
        running = needrun(
            jobs,
            reads=lambda job: _files_read(dag, job, found),
            is_outdated=lambda job: _is_forced(dag, job) or bool(outdated[job]),
            is_missing=missing.__contains__,
            follows=lambda job: job.is_norun or (found[job] is not None and found[job].is_view),
            wanted={job: _files_left(job, found) for job in targets if job in found},
        )
        for job in jobs:
            reason = dag.reason(job)
            reason.clear()
            if job in running:
                reason.forced = _is_forced(dag, job)
                reason.params_changed = outdated[job] or ""
                reason.missing_output.update(missing.intersection(_files_left(job, found)))
                if not reason:
                    updated = (files for before, files in dag.dependencies[job].items() if before in running)
                    reason.updated_input_run.update(*updated)
        _note(dag, running)

    DAG.update_needrun = update_needrun


def look_again(dag, state):
    """Ends the run where another one has finished some of its jobs since it decided: it would compute them again.

    Called when the outputs are locked, with a `state` that has read no record yet.
    """
    decided = {job: dag.reason(job) for job in dag.needrun_jobs()}
    needed = [job for job, reason in decided.items() if reason.params_changed or reason.missing_output]
    found = [state.graph.producer(map(Path, job.output)) for job in needed]
    if done := [job.title for job in found if job is not None and state.is_current(job)]:
        sys.exit(
            f"Another snakemake has finished {len(done)} of these jobs meanwhile, e.g. {done[0]}; start the command "
            "again for what is left"
        )


def tell_of_outdated(dag, state):
    """Says after a run that results of its targets are outdated, where it has replaced what they were computed from.

    On a GPU, a network that is trained again does not end in the same bytes, so that its probe is one of other weights.
    Trained again it is where its weights were deleted and are needed, or the command line forces it.
    """
    found = [state.graph.producer(map(Path, job.output)) for job in dag.jobs]
    outdated = [job for job in found if job is not None and job.record.is_file() and state.outdated(job)]
    if outdated:
        print(
            f"Outdated results are left: {len(outdated)}, e.g. {outdated[0].title} ({state.outdated(outdated[0])}); "
            "start the command again",
            file=sys.stderr,
        )


def _is_allowed(dag, job):
    """Whether the command line lets a job run at all."""
    return not dag.rules_allowed_for_needrun or job.rule.name in dag.rules_allowed_for_needrun


def _is_forced(dag, job):
    """Whether the command line, or an earlier run that was killed in the middle of it, makes a job run."""
    by_rule = job.rule in dag.forcerules and job not in dag.omitforce
    return by_rule or not dag.forcefiles.isdisjoint(job.output)


def _files_left(job, found):
    """The files that a job leaves, as the graph knows them; a rule may declare only some."""
    known = found[job]
    return job.output if known is None else {str(path) for path in (known.record, *known.files)}


def _files_read(dag, job, found):
    """The files that a job reads, by the job that they come from."""
    known, files = found[job], dag.dependencies[job]
    if known is None:
        return files
    read = {source: known.reads.get(found.get(source)) for source in files}
    return {source: files[source] if paths is None else map(str, paths) for source, paths in read.items()}


def _note(dag, running):
    """Tells the graph what runs, as its own method does."""
    for part in (dag._needrun, dag._checkpoint_jobs, dag._n_until_ready, dag._ready_jobs):
        part.clear()
    dag._needrun.update(running)
    for job in running:
        dag._n_until_ready[job] = sum(before in running for before in dag.dependencies[job])
    dag._len = len(dag._finished | dag._needrun)
