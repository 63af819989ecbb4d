"""What the command of a job is told: what it reads of the study, its inputs, and where it writes; no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ldae.study.graph import PAGES, Graph, Job
from ldae.study.record import digest


def options(graph: Graph, job: Job) -> list[str]:
    """The words of a job's command line that follow from the study; what the machine gives comes on top."""
    words = _of_view(graph, job) if job.entry is None else _of_stage(graph, job)
    return [word for option, values in words.items() for word in (f"--{option}", *values)]


def _of_stage(graph: Graph, job: Job) -> dict[str, Iterable[str]]:
    assert job.entry is not None
    words: dict[str, Iterable[str]] = {key: [str(job.key[key])] for key in ("row", "seed") if key in job.entry.options}
    words |= {
        "spec": [json.dumps(job.spec, sort_keys=True, separators=(",", ":"))],
        "revision": [str(job.lineage[job.own]["revision"])],
        "lineage": [digest(job.lineage)],
    }
    words |= {option: [str(before.record.parent)] for option, before in job.inputs.items()}
    if "resume" in job.entry.options:
        words["resume"] = [str(graph.results / "resume" / job.place)]
    return words | {"out": [str(graph.results / job.place)]}


def _of_view(graph: Graph, job: Job) -> dict[str, Iterable[str]]:
    if job.stage == "cost":
        return {"results": [str(before.record) for before in job.reads], "out": [str(graph.results / job.place)]}
    # In ASCII: a locale without Unicode would spoil a command's words.
    words: dict[str, Iterable[str]] = {"definition": [json.dumps(job.spec, sort_keys=True)]}
    if job.stage == "report":
        cost = graph.results / f"tables/{PAGES[job.place][0]}.json"
        return words | {"results": [str(graph.results)], "cost": [str(cost)], "out": [str(job.files[0])]}
    files = graph.command_files(job.place)
    words |= {option: [str(path) for path in paths] for option, paths in files.items()}
    return words | {"out": [str(graph.results / job.place)]}
