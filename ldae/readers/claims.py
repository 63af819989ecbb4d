"""Verdicts on the paper's statements, from results alone: the difference, its interval, and the margin; no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.measures.intervals import Estimate, resampled_means, seed_interval
from ldae.readers.results import Results, RowResult, estimate
from ldae.runtime.files import write_text

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
LEVEL = 0.95  # of the intervals
MEASURES = ("accuracy", "gain")


class Finding(NamedTuple):
    """What a claim's quantity is, and what that says of the claim."""

    quantity: Estimate | None  # in points, or a rank correlation; None for a peak
    said: str  # for a reader
    verdict: str


def write_claims(definition: dict[str, Any], results: Results, *, out: Path) -> None:
    """Writes `<out>.md` and `<out>.csv`: each claim with the paper's value, ours, and a verdict.

    Args:
        definition: `claims`, beside what `collect` reads of it.
        results: of all the rows that the claims speak of.
        out: path of the files, without ending.
    """
    seeds = len(definition["seeds"])
    paper: dict[str, dict[str, float]] = {}
    for wanted in definition["rows"]:  # a row may stand here twice, by its name and as a point of a sweep
        paper[wanted["name"]] = paper.get(wanted["name"], {}) | wanted["paper"]
    shown, exact = [], []
    for claim in definition["claims"]:
        found = {measure: judge(claim, results, measure) for measure in MEASURES}
        accuracy, gain = found["accuracy"], found["gain"]
        shown.append(
            {
                "claim": claim["text"],
                "in the paper": claim["where"],
                "paper": paper_value(claim, paper),
                "ours [95 %]": accuracy.said,
                "verdict": marked(accuracy.verdict, seeds),
                "by gain over random": f"{gain.said}: {marked(gain.verdict, seeds)}" if "rank" not in claim else "",
            }
        )
        exact.append(
            {"name": claim["name"], "text": claim["text"], "paper": paper_value(claim, paper)}
            | {f"verdict_{measure}": finding.verdict for measure, finding in found.items()}
            | {"said_accuracy": accuracy.said, "said_gain": "" if "rank" in claim else gain.said}
            | {
                f"{measure}_{part}": value
                for measure, finding in found.items()
                if finding.quantity is not None
                for part, value in finding.quantity._asdict().items()
            }
        )
    frame = pd.DataFrame(shown)
    decided = sum(record["verdict_accuracy"] != UNDECIDED for record in exact)
    counts = {word: sum(r["verdict_accuracy"] == word for r in exact) for word in (HOLDS, FAILS, UNDECIDED)}
    text = "\n\n".join(
        [
            "## The paper's claims",
            frame.to_markdown(index=False, disable_numparse=True),
            f"Differences in points of linear probe accuracy, {seeds} {'seed' if seeds == 1 else 'seeds'}. A claim "
            f"holds when the whole {LEVEL:.0%} interval lies on its side of the margin, does not hold when the whole "
            "interval lies beyond it, and is undecided between, also where an end only touches the margin. "
            + ", ".join(f"{count} {word}" for word, count in counts.items())
            + ".",
            f"If every true value lay just at its margin, {(1 - LEVEL) / 2:.1%} of the verdicts on each side would be "
            f"given by chance: of these {len(shown)} claims about {len(shown) * (1 - LEVEL):.1f}. Of the {decided} "
            f"verdicts that are given, at most about {len(shown) * (1 - LEVEL) / 2:.1f} are expected to be wrong.",
            *(
                ["One seed says nothing of how much another would differ, so no claim can hold by it alone."]
                if seeds == 1
                else []
            ),
        ]
    )
    write_text(out.with_suffix(".md"), text + "\n")
    write_text(out.with_suffix(".csv"), pd.DataFrame(exact).to_csv(index=False, float_format="%.6f"))


def judge(claim: dict[str, Any], results: Results, measure: str) -> Finding:
    """What results say of a claim, by `accuracy` or by `gain` over random weights."""
    if "peak" in claim:
        return peak(claim, results, measure)
    if "rank" in claim:
        rows = [results.rows[name] for name in claim["rank"]]
        quantity = rank_correlation(rows, results.groups)
        return Finding(quantity, _said(quantity, 2), verdict(quantity, claim))
    values = sum(weight * measured(results.rows[name], measure) for name, weight in claim["sum"].items())
    assert isinstance(values, np.ndarray)
    points = estimate(100 * values, results.groups)
    return Finding(points, _said(points, 1), verdict(points, claim))


def measured(row: RowResult, measure: str) -> NDArray[np.float64]:
    """A row's measure for each seed and validation image (seeds, N), whose mean is its value."""
    return row.correct - row.random_correct if measure == "gain" else row.correct


def verdict(quantity: Estimate, claim: dict[str, Any]) -> str:
    """Where a quantity's interval lies with respect to the claim's margin."""
    value, low, high = quantity
    if "within" in claim:
        margin = claim["within"]
        inside, outside = low > -margin and high < margin, low > margin or high < -margin
    elif "above" in claim:
        inside, outside = low > claim["above"], high < claim["above"]
    else:
        inside, outside = high < claim["below"], low > claim["below"]
    return HOLDS if inside else FAILS if outside else UNDECIDED


def marked(word: str, seeds: int) -> str:
    """A verdict as it is shown: with one seed none can be that a claim holds."""
    if seeds > 1:
        return word
    return f"{UNDECIDED} (one seed, points to: {HOLDS})" if word == HOLDS else f"{word} (one seed)"


def peak(claim: dict[str, Any], results: Results, measure: str) -> Finding:
    """Whether the best value of a sweep is one of those that the claim names.

    The quantity that decides is the best of the named values less the best of the others: it is resampled whole, its
    choice of the best included.
    """
    points = claim["points"]
    scores = np.stack([measured(results.rows[row], measure) for row, _ in points])  # (values, seeds, N)
    named = np.array([value in claim["among"] for _, value in points])
    best = points[int(scores.mean((1, 2)).argmax())][1]
    if not named.any() or named.all():
        return Finding(None, f"best at {best}", UNDECIDED)

    def margin(means: NDArray[np.float64]) -> NDArray[np.float64]:  # (values, ...) to (...)
        return means[named].max(0) - means[~named].max(0)

    draws = np.stack([resampled_means(score.mean(0), results.groups) for score in scores])  # (values, resamples)
    value = float(margin(scores.mean((1, 2))))
    low, high = np.percentile(margin(draws), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    by_seed = margin(scores.mean(2))
    between = seed_interval(by_seed) if len(by_seed) > 1 else 0.0
    lower, upper = value - float(np.hypot(value - low, between)), value + float(np.hypot(high - value, between))
    word = HOLDS if lower > 0 else FAILS if upper < 0 else UNDECIDED
    quantity = Estimate(100 * value, 100 * lower, 100 * upper)
    return Finding(quantity, f"best at {best}; lead {_said(quantity, 1)}", word)


def rank_correlation(rows: list[RowResult], groups: NDArray[np.int64]) -> Estimate:
    """Spearman's correlation of accuracy with the quality of samples, with an interval over images, seeds and samples.

    Quality is the negative distance. Accuracies are resampled by groups, distances drawn within their errors.

    Raises:
        ValueError: for a row whose samples were not judged.
    """
    distances = [row.distance for row in rows]
    if any(distance is None for distance in distances):
        raise ValueError("a rank correlation wants rows whose samples were judged")
    quality = np.array([-distance.infinite for distance in distances if distance is not None])
    errors = np.array([distance.error for distance in distances if distance is not None])
    accuracy = np.array([row.accuracy.value for row in rows])
    value = spearman(accuracy[None], quality[None])[0]
    rng = np.random.default_rng(0)
    draws = np.stack([resampled_means(row.correct.mean(0), groups) for row in rows], axis=1)  # (resamples, rows)
    seeds = [row.by_seed.std(ddof=1) / np.sqrt(len(row.by_seed)) if len(row.by_seed) > 1 else 0.0 for row in rows]
    draws = draws + rng.standard_normal(draws.shape) * np.array(seeds)
    qualities = quality + rng.standard_normal(draws.shape) * errors
    low, high = np.percentile(spearman(draws, qualities), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(float(value), float(low), float(high))


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank correlation (n,) of the columns of two arrays (n, k) without ties."""
    ranks = [values.argsort(1).argsort(1) for values in (first, second)]
    k = first.shape[1]
    return 1 - 6 * ((ranks[0] - ranks[1]) ** 2).sum(1) / (k * (k**2 - 1))


def paper_value(claim: dict[str, Any], paper: dict[str, dict[str, float]]) -> str:
    """The same quantity from the paper's own numbers, or nothing where it has not all of them."""
    if "peak" in claim:
        known = [(paper[row]["probe"], value) for row, value in claim["points"] if "probe" in paper[row]]
        return f"best at {max(known)[1]}" if known else ""
    if "rank" in claim:
        rows = [paper[name] for name in claim["rank"]]
        if any("fid" not in row or "probe" not in row for row in rows):
            return ""
        accuracy, quality = (np.array([[sign * row[key] for row in rows]]) for key, sign in (("probe", 1), ("fid", -1)))
        return f"{spearman(accuracy, quality)[0]:+.2f}"
    if any("probe" not in paper[name] for name in claim["sum"]):
        return ""
    return f"{sum(weight * paper[name]['probe'] for name, weight in claim['sum'].items()):+.1f}"


def _said(estimate: Estimate, digits: int) -> str:
    value, low, high = (f"{part:+.{digits}f}" for part in estimate)
    return f"{value} [{low}, {high}]"
