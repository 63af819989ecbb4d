"""What the tuning of rates has found so far, what is left to run, and the files that it ends with; no torch.

Everything follows from the records on disk, so a tuning that was stopped continues where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tabulate import tabulate

from ldae.overview.state import State
from ldae.overview.status import log_of
from ldae.runtime.files import write_text
from ldae.runtime.progress import DIVERGED
from ldae.study.graph import Graph, Job
from ldae.study.rates import TUNING_SEEDS, Rates, Tuned, rates_path
from ldae.study.results import ProbeRecord, TokenizerRecord
from ldae.study.study import Study
from ldae.study.tuning import (
    EXTENSIONS,
    FACTORS,
    Choice,
    Scores,
    Subject,
    best_of,
    choose,
    mean_of,
    next_factor,
    subjects,
    tuning_file,
    tuning_name,
)

HEADER = """\
# Learning rates as multiples of the scale's, which `ldae tune` writes; docs/statistics.md says how they are found.
# `tried` has the mean score of each factor over the replications in `seeds`, null where training diverged. The score of
# a row is the accuracy of its linear probe on held-out training images in percent, that of a tokenizer the PSNR of
# held-out images in dB. `lead` is that of the best factor over 1, `error` its paired standard error. Compare scores
# within a line alone: a row that is pretrained with labels has seen those of the held-out images.
"""


@dataclass
class Found:
    """The scores of a subject's factors, and the jobs that gave them."""

    scores: dict[float, Sequence[float] | None]
    jobs: list[Job]

    @property
    def choice(self) -> Choice:
        """The factor that they choose."""
        return choose(self.scores)

    @property
    def at_edge(self) -> bool:
        """Whether the best factor is the smallest or largest that was tried."""
        return best_of(self.scores) in (min(self.scores), max(self.scores))


@dataclass
class Progress:
    """How far a tuning is."""

    file: Path  # the study of the tuning, below the project's folder
    left: list[Job] = field(default_factory=list)  # of the next run; none: the tuning has ended
    sweeps: list[str] = field(default_factory=list)  # that these jobs belong to
    found: dict[Subject, Found] = field(default_factory=dict)


def progress(study: Study, root: Path, names: Iterable[str], *, since: float | None) -> Progress:
    """Reads what a tuning has found, and writes the study that says what it needs next.

    Args:
        study: whose rates are tuned.
        root: the folder that holds `results/` and `scales/`.
        names: of rows, sweeps and tokenizers, see `ldae.study.tuning.subjects`.
        since: when this tuning started, in seconds since 1970. A training that has diverged since is not repeated.

    Raises:
        StudyError: for a name that cannot be tuned.
    """
    wanted = subjects(study, names)
    folder = root / "results" / tuning_name(study) / study.scale_name
    now = Progress(folder / f"{tuning_name(study)}.yaml")
    fits = {name: tuned.factor for name, tuned in study.rates.tokenizers.items()}
    for are_rows in (False, True):  # a row is tuned on top of its tuned tokenizer
        ladders = {subject: list(FACTORS) for subject in wanted if subject.is_row == are_rows}
        while ladders:
            found, now.left = _read(study, root, now.file, ladders, fits, since=since or time.time())
            if now.left:
                now.sweeps = [subject.sweep for subject in ladders]
                return now
            wider = {subject: factor for subject in ladders if (factor := next_factor(found[subject].scores))}
            if not wider:
                now.found |= found
                break
            for subject, factor in wider.items():
                ladders[subject].append(factor)
        fits |= {subject.name: found.choice.factor for subject, found in now.found.items()}
    return now


def _read(
    study: Study,
    root: Path,
    file: Path,
    ladders: Mapping[Subject, Sequence[float]],
    fits: Mapping[str, float],
    *,
    since: float,
) -> tuple[dict[Subject, Found], list[Job]]:
    """The scores of all factors, and the jobs without a result; it writes the study that has these jobs."""
    write_text(file, yaml.safe_dump(tuning_file(study, ladders, fits), sort_keys=False, width=120))
    tuning = Study.load(root, {"study": str(file)})
    state = State(Graph(tuning, root))
    results: dict[Subject, Found] = {}
    left: list[Job] = []
    for subject in ladders:
        results[subject] = Found({}, [])
        for point in tuning.sweeps[subject.sweep]:
            places = [_place(tuning, subject, point.variant, seed) for seed in TUNING_SEEDS]
            jobs = [state.graph.jobs[place] for place in dict.fromkeys(places)]
            missing = [job for job in jobs if not state.is_current(job)]
            diverged = any(has_diverged(job, state.graph, since=since) for job in missing)
            left += [] if diverged else missing
            if diverged or not missing:
                scores = None if diverged else [_score(tuning, point.variant, job) for job in jobs]
                results[subject].scores[float(point.value)] = scores
                results[subject].jobs += [] if diverged else jobs
    return results, left


def _place(tuning: Study, subject: Subject, row: str, seed: int) -> str:
    """Where the result with a score lies."""
    if subject.is_row:
        return f"probe/{tuning.probes[row]}/seed{seed}"
    return f"tokenizers/{tuning.variants[row].spec.tokenizer.name}/seed{tuning.seed_of('tokenizer', seed)}"


def _score(tuning: Study, row: str, job: Job) -> float:
    """The held-out accuracy of a probe in percent, or the PSNR of a tokenizer in dB."""
    spec = tuning.variants[row].spec
    if job.stage == "tokenizer":
        return TokenizerRecord.read(job.record).psnr[spec.tokenizer.dim]
    held_out = ProbeRecord.read(job.record).blocks[spec.features.offset]["linear"].held_out
    if held_out is None:
        raise ValueError(f"{job.record}: has no accuracy on held-out images; run its job again")
    return 100 * held_out


def has_diverged(job: Job, graph: Graph, *, since: float) -> bool:
    """Whether a job, or a training before it, has diverged since a time, as its log says."""
    log = log_of(job, graph)
    if log.is_file() and log.stat().st_mtime >= since and DIVERGED in log.read_text(errors="replace"):
        return True
    return any(has_diverged(before, graph, since=since) for before in job.inputs.values())


def has_ended(study: Study, root: Path, records: Iterable[str], *, since: float) -> bool:
    """Whether each of a run's targets, by the path of its record, has its result or has diverged since a time."""
    state = State(Graph(study, root))
    jobs = [job for path in records if (job := state.graph.producer([Path(path)])) is not None]
    return all(state.is_current(job) or has_diverged(job, state.graph, since=since) for job in jobs)


def finish(study: Study, root: Path, now: Progress) -> str:
    """Writes the file of rates and, beside the study of the tuning, a table; returns the table."""
    rows, tokenizers = ({s.name: _entry(f) for s, f in now.found.items() if s.is_row == row} for row in (True, False))
    order = list(study.variants)
    entries = sorted((study.rates.rows | rows).items(), key=lambda entry: order.index(entry[0]))
    rates = Rates(rows=dict(entries), tokenizers=study.rates.tokenizers | tokenizers)
    path = rates_path(root / "scales", study.scale_name, study.name)
    write_text(path, rates_text(rates))
    table = _table(now)
    write_text(now.file.with_name("rates.md"), f"{table}\n")
    return f"{table}\n\n{path}\n{now.file.with_name('rates.md')}"


def _entry(found: Found) -> Tuned:
    """What the file of rates says of a subject."""
    factor, _, lead, error = found.choice
    origins = [
        TokenizerRecord.read(j.record) if j.stage == "tokenizer" else ProbeRecord.read(j.record) for j in found.jobs
    ]
    commits, devices = (
        " and ".join(dict.fromkeys(str(origin.provenance.get(key, "")) for origin in origins))
        for key in ("commit", "device")
    )
    tried = {each: None if found.scores[each] is None else mean_of(found.scores, each) for each in sorted(found.scores)}
    return Tuned(
        factor=factor,
        tried={each: None if mean is None else round(mean, 2) for each, mean in tried.items()},
        lead=None if lead is None else round(lead, 2),
        error=None if error is None else round(error, 2),
        seeds=TUNING_SEEDS,
        commit=commits,
        device=devices,
    )


def rates_text(rates: Rates) -> str:
    """The file of rates, a line for each row and tokenizer."""
    lines = []
    for section, entries in (("rows", rates.rows), ("tokenizers", rates.tokenizers)):
        if entries:
            lines.append(f"{section}:")
            lines += [f"  {name}: {_in_a_line(entry)}" for name, entry in entries.items()]
    return HEADER + "\n".join(lines or ["rows: {}"]) + "\n"


def _in_a_line(entry: Tuned) -> str:
    values: dict[str, Any] = entry.model_dump(exclude_defaults=True)
    values |= {"seeds": list(entry.seeds)} if entry.seeds else {}
    text: str = yaml.safe_dump(_short(values), default_flow_style=True, sort_keys=False, width=10**6)
    return text.strip()


def _short(value: Any) -> Any:
    """Whole numbers without a point."""
    if isinstance(value, dict):
        return {_short(key): _short(each) for key, each in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _table(now: Progress) -> str:
    """The scores of all factors, the chosen one in bold, as Markdown."""
    factors = sorted({factor for found in now.found.values() for factor in found.scores})
    lines = []
    for subject, found in now.found.items():
        chosen, _, lead, error = found.choice
        cells = [_cell(found.scores, factor, chosen=factor == chosen) for factor in factors]
        margin = "" if lead is None else f"{lead:.2f}" + ("" if error is None else f" ± {error:.2f}")
        notes = f"at the edge after {EXTENSIONS} more factors" if found.at_edge else ""
        if all(scores is None for scores in found.scores.values()):
            notes = "training diverges at each of them; lower the scale's rate"
        lines.append([subject.name, *cells, f"{chosen:g}", margin, notes])
    headers = ["", *(f"x {factor:g}" for factor in factors), "factor", "lead over x 1", "note"]
    about = (
        f"Scores are means over the replications {' and '.join(map(str, TUNING_SEEDS))}. The score of a row is the "
        "accuracy of its linear probe on held-out training images in percent, that of a tokenizer the PSNR of held-out "
        "images in dB. Compare scores within a line alone. The chosen factor is in bold; a lead below its standard "
        "error chooses 1."
    )
    return f"{tabulate(lines, headers, tablefmt='github', disable_numparse=True)}\n\n{about}"


def _cell(scores: Scores, factor: float, *, chosen: bool) -> str:
    if factor not in scores:
        return ""
    text = "diverged" if scores[factor] is None else f"{mean_of(scores, factor):.2f}"
    return f"**{text}**" if chosen else text
