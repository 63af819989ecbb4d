"""`ldae power`: how many replications each claim takes, from the spread of those that there are; no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from ldae.measures.power import MOST, Needed
from ldae.overview.state import State
from ldae.readers.outcome import results_of
from ldae.readers.verdicts import ClaimFinding, judge
from ldae.study.checking import listed, nearest
from ldae.study.definitions import ClaimDefinition, ViewDefinition, claims_definition, describe
from ldae.study.graph import Graph
from ldae.study.study import Study

HEADERS = ["claim", "estimate", "± 95 %", "s", "seeds", "verdict", "needed seeds"]
LISTED = 5  # claims without a spread that are named; the others are counted
ABOUT = (
    "s: the standard deviation between seeds, in points. Needed seeds: with so many a verdict has a chance of 80 %, if "
    "the true value is the estimated one; a range, because s itself is uncertain (its 80 % interval). Fix the number "
    "before the run."
)


def power(study: Study, root: Path, names: Sequence[str]) -> str:
    """The estimates, spreads and needed replications of claims, from the seeds with current results, as text.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        names: of claims; none for all.

    Raises:
        ValueError: for a claim that does not exist, or a study without claims.
    """
    graph = Graph(study, root)
    state, claims = State(graph), {claim.name: claim for claim in claims_definition(graph).claims}
    if unknown := next((name for name in names if name not in claims), None):
        raise ValueError(f"no claim {unknown!r}{nearest(unknown, claims)}")
    if not claims:
        raise ValueError("the study has no claims; add some under claims:")
    lines, lacking = [], dict[int, list[str]]()
    for name in names or claims:
        view = _current(graph, state, claims[name])
        if len(view.seeds) < 2:
            lacking.setdefault(len(view.seeds), []).append(name)
        else:
            lines.append(_line(name, judge(claims[name], results_of(graph, view), "accuracy")))
    parts = [tabulate(lines, HEADERS, disable_numparse=True), ABOUT] if lines else []
    for seeds, without in sorted(lacking.items(), reverse=True):
        there = "one seed has" if seeds else "no seed has"
        few = (
            listed(without)
            if len(without) <= LISTED
            else f"{listed(without[:LISTED])} and {len(without) - LISTED} more"
        )
        parts.append(f"A spread needs two seeds, and {there} current results of all rows of: {few} (see --seeds).")
    return "\n\n".join(parts)


def _current(graph: Graph, state: State, claim: ClaimDefinition) -> ViewDefinition:
    """The rows of a claim, at the seeds at which all of them have current results."""
    view = describe(graph, claim.names)
    unread = ("finetune",) if claim.rank is not None else ("finetune", "judge")
    jobs = [job for job in graph.jobs_for(claim.names) if "seed" in job.key and job.stage not in unread]
    absent = {job.key["seed"] for job in jobs if not state.matching_record(job)}
    common = (seed for seed in view.seeds if all(seed in row.seeds for row in view.rows))
    seeds = tuple(seed for seed in common if seed not in absent)
    read = {"seeds": seeds, "finetuned": None} | ({} if claim.rank is not None else {"distance": None})
    return view.model_copy(update={"seeds": seeds, "rows": tuple(row.model_copy(update=read) for row in view.rows)})


def _line(name: str, finding: ClaimFinding) -> Iterable[str]:
    """A claim in the table."""
    if finding.quantity is None:
        return [name, finding.text, "", "", str(finding.n), finding.said, ""]
    value, low, high, _ = finding.quantity
    digits = 2 if finding.s is None else 1  # a rank correlation has no spread of its own
    spread = f"{finding.s:.1f}" if finding.s is not None else ""
    half = f"{(high - low) / 2:.{digits}f}"
    return [name, f"{value:+.{digits}f}", half, spread, str(finding.n), finding.said, _range(finding.needed)]


def _range(needed: Needed | None) -> str:
    """A range of numbers of replications in words."""
    if needed is None:
        return ""
    if needed.low is None:
        return f"over {MOST}"
    high = f"over {MOST}" if needed.high is None else str(needed.high)
    return high if high == str(needed.low) else f"{needed.low} to {high}"
