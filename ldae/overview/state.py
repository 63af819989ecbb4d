"""Which results on disk are current, and which jobs have to run; no torch.

Only the records on disk decide, not Snakemake's metadata or file times. A result is outdated if the lineage in its
record differs from the expected one, if it was computed from other inputs than the present ones, if the source images
changed, or if an input is outdated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ldae.data.sources.opening import difference
from ldae.runtime.files import read_json, sha256
from ldae.study.graph import Graph, Job
from ldae.study.record import differences, digest, digest_read

J = TypeVar("J", bound=Hashable)
F = TypeVar("F", bound=Hashable)
REFITTED = ("tokenizer", "vgg")  # inputs that a new row may need again, where results without weights were merged


class State:
    """The state of the results of a graph; each record is read once, when it is first needed."""

    def __init__(self, graph: Graph, records: Mapping[Job, dict[str, Any]] | None = None) -> None:
        """Asks about the results on disk, with other `records` in place of those of some jobs."""
        self.graph = graph
        self._reasons: dict[Job, str | None] = {}
        self._records: dict[Job, dict[str, Any] | None] = dict(records or {})

    def outdated(self, job: Job) -> str | None:
        """Why a result is outdated, from the first stage that differs; None if it is current or absent."""
        if job not in self._reasons:
            self._reasons[job] = self._reason(job)
        return self._reasons[job]

    def is_current(self, job: Job) -> bool:
        """Whether a job's result has the expected lineage and all its files."""
        return not self.missing(job) and self.outdated(job) is None

    def missing(self, job: Job) -> list[Path]:
        """The absent files of a job's result, and its record if that is damaged."""
        absent = [path for path in job.files if not path.is_file()]
        return absent if self.record_of(job) is not None else [job.record, *absent]

    def to_run(self, targets: Iterable[str]) -> dict[Job, str]:
        """The jobs that would run for targets, in the order of the graph, each with its reason.

        Raises:
            StudyError: for a target that does not exist.
        """
        targets = list(targets)
        jobs = self.graph.all_jobs_for(targets)
        running = needrun(
            jobs[::-1],
            reads=lambda job: job.reads,
            is_outdated=lambda job: self.outdated(job) is not None,
            is_missing={path for job in jobs for path in self.missing(job)}.__contains__,
            follows=lambda job: job.is_view,
            wanted={job: (job.record, *job.files) for job in self.graph.jobs_for(targets)},
        )
        return {job: self._why(job) for job in jobs if job in running}

    def record_of(self, job: Job) -> dict[str, Any] | None:
        """The record of a result; None if it is absent or damaged."""
        if job not in self._records:
            try:
                self._records[job] = read_json(job.record) if job.record.is_file() else None
            except ValueError:
                self._records[job] = None
        return self._records[job]

    def matching_record(self, job: Job) -> dict[str, Any]:
        """The record of a result with the expected lineage; empty if there is no such result."""
        record = self.record_of(job) or {}
        return record if digest(record.get("lineage")) == digest(job.lineage) else {}

    def may_differ(self, job: Job) -> bool:
        """Whether results that came without weights stay current if this tokenizer, or its classifier, is fitted again.

        On another machine the new fit differs in the last bits. Each row of the seed is still a replication, and no job
        can combine old weights, which are absent, with the new fit. A fit that all seeds share may not differ.
        """
        is_fit = job.stage == "tokenizer" or (job.stage == "classifier" and job.key.get("architecture") == "vgg")
        return is_fit and "seed" in job.key and not job.spec.get("shared", False)

    def _why(self, job: Job) -> str:
        if reason := self.outdated(job):
            return reason
        missing = self.missing(job)
        if not missing:
            return "one of its inputs runs"
        if missing[0] != job.record:
            return f"its {missing[0].name} is absent"
        return "its record is damaged" if job.record.is_file() else "has not run yet"

    def _reason(self, job: Job) -> str | None:
        for before in job.inputs.values():
            if reason := self.outdated(before):
                return reason
        about = self.record_of(job)
        if about is None:
            return None
        if other := _other_owner(job, about):
            return f"{job.stage}: is the result of {other}"
        if changes := differences(about.get("lineage", {}), job.lineage):
            return changes[0] if len(changes) == 1 else f"{changes[0]} (and {len(changes) - 1} more)"
        recorded = about.get("inputs", {})
        for view in job.shows:
            found = self.matching_record(view)
            if recorded.get(view.place) != (digest_read(found, stage=job.stage) if found else None):
                return f"{job.stage}: does not show {view.title} as it is now"
        if other := self._other_input(job, recorded):
            return f"{job.stage}: was computed from another {other} than the present one"
        dataset = self.graph.study.scale.dataset
        if job.stage == "dataset" and (changed := difference(dataset, about, prepared=job.record.parent)):
            return f"dataset: {changed}"
        if job.is_view and (edited := _not_as_written(job, about)):
            return f"{job.stage}: {edited.name} is not as it was written"
        return None

    def _other_input(self, job: Job, recorded: Mapping[str, str]) -> str | None:
        """The first input that differs from the one in a result's record."""
        for key, before in job.inputs.items():
            about = self.record_of(before)
            if about is None or key not in recorded or recorded[key] == digest_read(about, stage=job.stage):
                continue
            if not (key in REFITTED and self.may_differ(before) and _has_no_weights(job)):
                what = before.title if job.is_view else key
                return what if what in (before.stage, before.title) else f"{key} ({before.title})"
        return None


def _other_owner(job: Job, about: Mapping[str, Any]) -> str | None:
    """The name of the job whose key a record has, if that is not the job of its folder."""
    owner = {part: about.get(part, value) for part, value in job.key.items()}
    return job.entry.title.format(**owner) if job.entry is not None and owner != job.key else None


def _has_no_weights(job: Job) -> bool:
    """Whether a result's weights are absent, or it has none."""
    return not any(path.suffix == ".safetensors" and path.is_file() for path in job.files)


def _not_as_written(view: Job, about: Mapping[str, Any]) -> Path | None:
    """The first file of a view whose checksum is not the one in its record."""
    sums = about.get("sha256", {})
    written = (path for path in view.files if path.name in sums and path.is_file())
    return next((path for path in written if sha256(path) != sums[path.name]), None)


def needrun(
    jobs: Sequence[J],
    *,
    reads: Callable[[J], Mapping[J, Iterable[F]]],
    is_outdated: Callable[[J], bool],
    is_missing: Callable[[F], bool],
    follows: Callable[[J], bool],
    wanted: Mapping[J, Iterable[F]],
) -> set[J]:
    """The jobs that have to run: outdated ones, and those without a file that a target or a running job needs.

    A current result is not computed again because one of its inputs was deleted.

    Args:
        jobs: all jobs behind the targets, each before its inputs.
        reads: the files that a job reads, by the job that writes them.
        is_outdated: whether a job's result is outdated.
        is_missing: whether a file is absent.
        follows: whether a job runs whenever one of its inputs does, as tables do.
        wanted: the jobs whose results are the targets, with their files.
    """
    running: set[J] = set()
    while True:
        before = len(running)
        read: dict[J, set[F]] = {job: set(files) for job, files in wanted.items()}
        for job in jobs:
            if is_outdated(job) or any(map(is_missing, read.get(job, ()))):
                running.add(job)
            if job in running:
                for source, files in reads(job).items():
                    read.setdefault(source, set()).update(files)
        running |= {job for job in jobs[::-1] if follows(job) and not running.isdisjoint(reads(job))}
        if len(running) == before:
            return running
