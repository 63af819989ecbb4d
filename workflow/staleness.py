"""Makes the records of results decide which jobs Snakemake runs, instead of its own metadata and file times."""

import sys
from importlib.metadata import version
from pathlib import Path

from snakemake.dag import DAG

from ldae.overview.state import needrun

# The parts of Snakemake's graph that this module uses or replaces; they are not part of its public interface.
PARTS = ("update_needrun", "toposorted", "finished", "reason", "dependencies")


def decide_by_records(state):
    """Replaces Snakemake's decision in this process by the records' in `state`.

    Snakemake compares a job's parameters with `.snakemake/metadata`, and the times of its inputs with those of its
    outputs. It would take results without metadata, such as copies, for current whatever the study says. Options that
    force or omit jobs keep their meaning.
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


def stop_if_overtaken(dag, state):
    """Ends the run if another run has finished some of its jobs since the decision; they would be computed again.

    Called once the outputs are locked, with a `state` that has not read any record yet.
    """
    decided = {job: dag.reason(job) for job in dag.needrun_jobs()}
    needed = [job for job, reason in decided.items() if reason.params_changed or reason.missing_output]
    found = [state.graph.producer(map(Path, job.output)) for job in needed]
    if done := [job.title for job in found if job is not None and state.is_current(job)]:
        sys.exit(
            f"Another snakemake has finished {len(done)} of these jobs meanwhile, e.g. {done[0]}; start the command "
            "again for what is left"
        )


def warn_about_outdated(dag, state):
    """Prints after a run which of its targets' results are outdated because it replaced their inputs.

    On a GPU, training a network again does not give the same bytes, so its earlier probe belongs to other weights. A
    network is trained again if its weights were deleted and are needed, or if the command line forces it.
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
    """Whether the command line permits a job to run."""
    return not dag.rules_allowed_for_needrun or job.rule.name in dag.rules_allowed_for_needrun


def _is_forced(dag, job):
    """Whether the command line forces a job, or an earlier run was killed while running it."""
    by_rule = job.rule in dag.forcerules and job not in dag.omitforce
    return by_rule or not dag.forcefiles.isdisjoint(job.output)


def _files_left(job, found):
    """The files that a job leaves, by the study's graph; a rule may declare only some of them."""
    known = found[job]
    return job.output if known is None else {str(path) for path in (known.record, *known.files)}


def _files_read(dag, job, found):
    """The files that a job reads, by the job that writes them."""
    known, files = found[job], dag.dependencies[job]
    if known is None:
        return files
    read = {source: known.reads.get(found.get(source)) for source in files}
    return {source: files[source] if paths is None else map(str, paths) for source, paths in read.items()}


def _note(dag, running):
    """Stores the decision in the attributes that Snakemake's own method sets."""
    for part in (dag._needrun, dag._checkpoint_jobs, dag._n_until_ready, dag._ready_jobs):
        part.clear()
    dag._needrun.update(running)
    for job in running:
        dag._n_until_ready[job] = sum(before in running for before in dag.dependencies[job])
    dag._len = len(dag._finished | dag._needrun)
