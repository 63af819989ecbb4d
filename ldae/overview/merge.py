"""Merging: results in packs are checked against the study and against each other, then put into its folder; no torch.

All checks come before the first write. A result that is there already is kept, so a merge that was killed can be
repeated.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256 as hash_of
from pathlib import Path
from typing import Any

from ldae.overview.pack import Pack, read_pack
from ldae.overview.state import State
from ldae.runtime.files import parse_json, sha256, write_bytes
from ldae.runtime.locking import SILENT_SECONDS, read_holder
from ldae.study.graph import Graph, Job
from ldae.study.record import content, differences
from ldae.study.study import Study

NOTHING = "nothing was merged"


@dataclass(frozen=True)
class Incoming:
    """A result in a pack."""

    job: Job
    pack: Path
    about: dict[str, Any]  # its record
    files: dict[Path, bytes]  # with the record, by the paths to write


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    written: list[Incoming]
    known: list[Incoming]  # equal results were there already
    kept: list[Incoming]  # in the folder there is another fit of the same tokenizer


def merge(study: Study, root: Path, packs: Iterable[Path]) -> Merged:
    """Puts the results in packs into the study's results folder below `root`.

    Raises:
        ValueError: before anything is written, for a file that is not a pack or is damaged; for a result of another
            study, scale or revision, or one that was computed from other results; and for one that differs from the
            result that is there already.
    """
    read = sorted(map(read_pack, packs), key=lambda each: each.header.seed)
    for each in read:
        _check_study(each, study)
    graph = Graph(study.with_seeds(each.header.seed for each in read), root)
    here, incoming = State(graph), dict[Job, Incoming]()
    for each in read:
        for result in _results_in(each, graph):
            other = incoming.setdefault(result.job, result)
            if _is_equal(other.about, result.about):
                other.files.update({path: part for path, part in result.files.items() if path not in other.files})
            elif not here.may_differ(result.job):
                raise ValueError(
                    f"{result.pack} and {other.pack}: have different results of {result.job.title}; {NOTHING}. "
                    "Merge one of them alone"
                )
    merged = Merged([], [], [])
    for result in incoming.values():
        about = here.record_of(result.job) if here.outdated(result.job) is None else None
        if about is None:
            merged.written.append(result)
        elif _is_equal(about, result.about):
            merged.known.append(result)
        elif here.may_differ(result.job):
            merged.kept.append(result)
        else:
            raise ValueError(_conflict(result, about))
    _check_together(graph, here, merged)
    _check_idle(graph, merged)
    for result in merged.known:
        _write_files(result)
    for result in merged.written:
        _replace(result)
    return merged


def summary(merged: Merged, study: Study) -> str:
    """What a merge did, for a reader."""
    seeds = Counter(result.job.key.get("seed") for result in merged.written)
    of_seeds = ", ".join(
        f"{count} of seed {seed}" for seed, count in sorted(seeds.items(), key=str) if seed is not None
    )
    lines = [f"{len(merged.written)} results merged into {study.results}{f' ({of_seeds})' if of_seeds else ''}"]
    if merged.known:
        lines.append(f"{len(merged.known)} were there already")
    lines += [f"{each.job.title}: the fit that was there is kept; {each.pack} has another one" for each in merged.kept]
    return "\n".join(lines)


def _check_study(pack: Pack, study: Study) -> None:
    """Refuses a pack of another study or scale, with a `ValueError`."""
    header = pack.header
    if header.study != study.name:
        ours, theirs = (name or "config.yaml" for name in (study.name, header.study))
        raise ValueError(f"{pack.path}: has results of the study {theirs}, not of {ours}; see --study; {NOTHING}")
    if header.scale != study.scale_name:
        raise ValueError(
            f"{pack.path}: has results of scale {header.scale}, not {study.scale_name}; "
            f"merge it with --scale {header.scale}; {NOTHING}"
        )


def _results_in(pack: Pack, graph: Graph) -> list[Incoming]:
    """The results in a pack, in the order of the graph, each checked by itself; a `ValueError` names a wrong one."""
    owners = {path: job for job in graph.jobs.values() if not job.is_view for path in (job.record, *job.files)}
    files: dict[Job, dict[Path, bytes]] = {}
    for name, part in pack.files.items():
        path = graph.results / name
        if path not in owners or str(path.relative_to(graph.results)) != name:
            raise ValueError(f"{pack.path}: contains {name!r}, which no job of this study writes; {NOTHING}")
        files.setdefault(owners[path], {})[path] = part
    results = []
    for job in graph.jobs.values():
        if job in files:
            where = pack.path / job.place
            if job.record not in files[job]:
                raise ValueError(f"{where}: lies there without its record; {NOTHING}")
            about = parse_json(files[job][job.record], where / job.record.name)
            if changes := differences(about.get("lineage", {}), job.lineage):
                raise ValueError(
                    f"{where}: is not what this study asks for: {changes[0]} (pack -> study); {NOTHING}. "
                    "Check out the version of the study that was packed"
                )
            _check_files(where, files[job], about.get("sha256", {}), record=job.record)
            results.append(Incoming(job, pack.path, about, files[job]))
    return results


def _check_files(where: Path, files: Mapping[Path, bytes], sums: Mapping[str, str], *, record: Path) -> None:
    """Refuses files whose SHA-256 is not that in their record, with a `ValueError`."""
    for path, part in files.items():
        if path != record and hash_of(part).hexdigest() != sums.get(path.name):
            raise ValueError(f"{where / path.name}: is damaged: its SHA-256 differs from its record; {NOTHING}")


def _is_equal(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two records of one lineage have the same content and inputs; where and when they ran does not count."""
    inputs = [each.get("inputs", {}) for each in (first, second)]
    return content(dict(first)) == content(dict(second)) and inputs[0] == inputs[1]


def _conflict(result: Incoming, about: Mapping[str, Any]) -> str:
    """The message for a result that differs from the one that is there."""
    here, there = (each.get("provenance", {}).get("device", "an unknown device") for each in (about, result.about))
    return (
        f"{result.job.record}: is there already (computed on {here}) and differs from that in {result.pack} "
        f"(computed on {there}); {NOTHING}. To take the pack's, delete {result.job.record.parent} and whatever was "
        "computed from it"
    )


def _check_together(graph: Graph, here: State, merged: Merged) -> None:
    """Refuses results that do not belong to those that they would lie beside, with a `ValueError`."""
    after = State(graph, {result.job: result.about for result in merged.written})
    for result in merged.written:
        if reason := after.outdated(result.job):
            raise ValueError(
                f"{result.pack}: {result.job.title} does not belong to {graph.results}: {reason}; {NOTHING}"
            )
    written = {result.job for result in merged.written}
    for job in graph.jobs.values():
        is_current = not job.is_view and here.record_of(job) is not None and here.outdated(job) is None
        if is_current and job not in written and (reason := after.outdated(job)):
            raise ValueError(f"{job.record}: would be outdated by the merge: {reason}; {NOTHING}")


def _check_idle(graph: Graph, merged: Merged) -> None:
    """Refuses a result whose training is running here, with a `ValueError`."""
    for result in merged.written:
        holder = read_holder(graph.results / "resume" / result.job.place / "lock")
        if holder is not None and not holder.has_ended and time.time() - holder.heartbeat < SILENT_SECONDS:
            raise ValueError(f"{result.job.title}: is being computed on {holder.host}; stop it first; {NOTHING}")


def _replace(result: Incoming) -> None:
    """Writes a result in place of an outdated, damaged or incomplete one, if there is one; the record last."""
    job, sums = result.job, result.about.get("sha256", {})
    job.record.unlink(missing_ok=True)
    for path in job.files:
        if path not in result.files and path.is_file() and sha256(path) != sums.get(path.name):
            path.unlink()  # weights of the result before, which this record does not describe
    _write_files(result)
    write_bytes(job.record, result.files[job.record])


def _write_files(result: Incoming) -> None:
    """Writes the files of a result that are absent or differ."""
    for path, part in result.files.items():
        if path != result.job.record and not (path.is_file() and path.read_bytes() == part):
            write_bytes(path, part)
