"""How often intervals cover and verdicts are wrong, by a simulation with the components of variance of a pilot.

The intervals and the verdicts are those of `ldae.readers.verdicts.judge`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from ldae.readers.ranks import spearman
from ldae.readers.results import MeasureResult, Results, RowResult
from ldae.readers.verdicts import FAILS, HOLDS, UNDECIDED, ClaimFinding, judge
from ldae.study.definitions import ClaimDefinition
from ldae.study.file import Paper
from ldae.study.results import DistanceRecord

VARIANCE = Path(__file__).parents[1] / "results/variance.json"
NUMBERS = (4, 8, 12)  # of replications
IMAGES = 327  # groups of validation images, as many as at laptop scale
GAIN = 15.0  # points over random weights, so that every row has learnt
PARTS = ("splits", "tokenizers", "networks")
DISTANCE_ERROR = 1.0  # the standard deviation of a distance between replications, and the error of its extrapolation
FAILING, LOSS = 0.1, 12.0  # the share of replications in which a row may fail to train, and the points that it loses
REPEATS = {"sums": 4_000, "peaks": 2_000, "ranks": 1_000, "shared": 200}  # simulated studies
LEADS = {  # points by which each value of a sweep lies below the best; the first two are named
    "the best two are equal": (0.0, 3.0, 0.0, 3.0, 3.0),
    "all are equal": (0.0, 0.0, 0.0, 0.0, 0.0),
    "the best named leads by 3": (0.0, 3.0, 3.0, 6.0, 6.0),
    "another leads by 3": (3.0, 6.0, 0.0, 6.0, 6.0),
    "another leads by 0.1": (0.1, 0.1, 0.0, 3.0, 3.0),
}
RANKED = {  # accuracies of rows, and the distances of their samples
    "far apart": ((40.0, 35.0, 30.0, 25.0, 20.0), (40.0, 60.0, 80.0, 100.0, 120.0)),
    "as in the first reference run": ((28.6, 27.5, 24.5, 25.7, 24.3), (41.2, 41.5, 65.3, 73.6, 81.4)),
    "nearly equal accuracies in the order of quality": (
        (25.04, 25.03, 25.02, 25.01, 25.0),
        (40.0, 50.0, 60.0, 70.0, 80.0),
    ),
    "nearly equal accuracies against the order of quality": (
        (25.0, 25.01, 25.02, 25.03, 25.04),
        (40.0, 50.0, 60.0, 70.0, 80.0),
    ),
    "nearly equal in both": ((25.04, 25.03, 25.02, 25.01, 25.0), (60.0, 60.01, 60.02, 60.03, 60.04)),
}


class Components(BaseModel):
    """Components of variance, in points^2."""

    splits: float
    tokenizers: float
    networks: float
    images: float


class Variance(BaseModel):
    """`variance.json`: the components of a row's accuracy and of the paired difference of two rows."""

    what: str
    is_placeholder: bool = False
    accuracy: Components
    difference: Components

    def of(self, part: str) -> tuple[float, float]:
        """The standard deviations of what all rows have in common and of what each row has alone."""
        alone = getattr(self.difference, part) / 2
        return float(np.sqrt(max(0.0, getattr(self.accuracy, part) - alone))), float(np.sqrt(alone))


class Simulation:
    """A study whose true accuracies are known: replications of rows with the components of variance of a pilot."""

    def __init__(self, variance: Variance, *, seed: int = 0) -> None:
        self.variance, self.rng = variance, np.random.default_rng(seed)

    def replicate(
        self,
        means: Sequence[float],
        n: int,
        *,
        own: bool = True,
        failing: float = 0.0,
        distances: Sequence[float] = (),
    ) -> Results:
        """Results of rows r0, r1, ... with the true accuracies `means`, in percent.

        Args:
            means: of the rows.
            n: replications.
            own: whether each has a split and tokenizers of its own; if not, all have the same ones.
            failing: the share of replications in which r0 fails to train and loses `LOSS` points.
            distances: of the rows' samples; none by default.
        """
        rows = len(means)
        points = np.asarray(means)[:, None] + sum(
            self._draw(part, rows, n, own or part == "networks") for part in PARTS
        )
        points[0] -= LOSS * (self.rng.random(n) < failing)
        if own:  # a mean over replications needs no single images
            values = (points + self._draw("images", rows, n, own=True))[..., None]
        else:
            values = points[..., None] + np.sqrt(IMAGES) * self._draw("images", rows, IMAGES, own=True)[:, None]
        groups = np.tile(np.arange(values.shape[-1]), (n, 1))
        quality = self.rng.normal(np.reshape(distances, (-1, 1)), DISTANCE_ERROR, (len(distances), n))
        found = {}
        for row, accuracies in enumerate(values / 100):
            judged = tuple(_distance(value) for value in quality[row]) if len(distances) else ()
            probe = MeasureResult(accuracies, accuracies - GAIN / 100, groups, own_splits=own)
            found[f"r{row}"] = RowResult(
                name=f"r{row}",
                label=f"r{row}",
                paper=Paper(),
                seeds=tuple(range(n)),
                measures={"linear": probe},
                training_flops=None,
                finetuned=None,
                distances=judged,
                devices=("",) * n,
            )
        return Results(found, {}, groups, 20)

    def _draw(self, part: str, rows: int, count: int, own: bool) -> NDArray[np.float64]:
        """Deviations (rows, count) of a part; without its `own`, all have the same."""
        common, alone = self.variance.of(part)
        shape = count if own else 1
        drawn = common * self.rng.standard_normal(shape) + alone * self.rng.standard_normal((rows, shape))
        return np.broadcast_to(drawn, (rows, count))


def _distance(value: float) -> DistanceRecord:
    about = {"row": "", "seed": 0, "distance": "", "num": 1, "value": value, "infinite": value, "error": DISTANCE_ERROR}
    return DistanceRecord.model_construct(**about)


def a_claim(rows: int, **values: Any) -> ClaimDefinition:
    """A claim about the rows r0, r1, ..."""
    return ClaimDefinition(name="c", text="", where="", rows=tuple(f"r{row}" for row in range(rows)), **values)


def findings(
    claim: ClaimDefinition, simulation: Simulation, repeats: int, means: Sequence[float], n: int, **more: Any
) -> Iterator[ClaimFinding]:
    """What a claim's judge finds in repeated studies."""
    for _ in range(repeats):
        yield judge(claim, simulation.replicate(means, n, **more), "accuracy")


def sums(simulation: Simulation, repeats: int, n: int, *, own: bool = True, failing: float = 0.0) -> dict[str, float]:
    """Of a difference of two rows: how often the interval covers it and how wide it is; a rerun, by the prediction."""
    means, truth, claim = (30.0, 28.0), 2.0 - failing * LOSS, a_claim(2, sum={"r0": 1, "r1": -1}, above=0)
    covered, widths, reruns = [], [], []
    for found in findings(claim, simulation, repeats, means, n, own=own, failing=failing):
        assert found.quantity is not None and found.quantity.prediction is not None
        _, low, high, (least, most) = found.quantity
        covered.append(low <= truth <= high)
        widths.append((high - low) / 2)
        rerun = simulation.replicate(means, 1, failing=failing).rows
        again = 100 * (rerun["r0"].accuracy.value - rerun["r1"].accuracy.value)
        reruns.append(least <= again <= most)
    return {"covered": share(covered), "median_half_width": round(float(np.median(widths)), 2), "reruns": share(reruns)}


def peaks(simulation: Simulation, repeats: int, n: int) -> dict[str, dict[str, float]]:
    """The shares of verdicts on a peak by how far the values of a sweep are apart, and of those that are wrong."""
    report = {}
    claim = a_claim(5, peak="sweep", points=tuple((f"r{row}", row) for row in range(5)), among=[0, 1])
    for case, below in LEADS.items():
        lead = min(below[2:]) - min(below[:2])
        truth = HOLDS if lead > 0 else FAILS if lead < 0 else UNDECIDED
        verdicts = [f.verdict for f in findings(claim, simulation, repeats, [30 - points for points in below], n)]
        report[case] = {word: share([verdict == word for verdict in verdicts]) for word in (HOLDS, FAILS, UNDECIDED)}
        report[case]["wrong"] = share([verdict not in (UNDECIDED, truth) for verdict in verdicts])
    return report


def ranks(simulation: Simulation, repeats: int, n: int) -> dict[str, dict[str, float]]:
    """How often the bounds of a rank correlation cover it, and how often a verdict is given or wrong."""
    report = {}
    for case, (means, distances) in RANKED.items():
        truth = float(spearman(np.array([means]), -np.array([distances]))[0])
        claim = a_claim(5, rank=[f"r{row}" for row in range(5)], below=0.5)
        found = list(findings(claim, simulation, repeats, means, n, distances=distances))
        bounds = [one.quantity for one in found if one.quantity is not None]
        right = HOLDS if truth < 0.5 else FAILS
        report[case] = {
            "covered": share([low - 1e-6 <= truth <= high + 1e-6 for _, low, high, _ in bounds]),
            "decided": share([one.verdict != UNDECIDED for one in found]),
            "wrong": share([one.verdict not in (UNDECIDED, right) for one in found]),
        }
    return report


def share(cases: Sequence[bool]) -> float:
    """The share of true cases."""
    return round(float(np.mean(cases)), 4)


def main() -> None:
    """Simulates all of it, and writes `coverage-cpu.json`."""
    from benchmarks.comparison import save  # loads torch

    variance = Variance.model_validate_json(VARIANCE.read_text())
    simulation = Simulation(variance)
    report: dict[str, Any] = {
        "what": "shares of simulated studies in which an interval covers the truth or a verdict is wrong",
        "variance": variance.model_dump(),
        "repeats": REPEATS,
    }
    for kind, simulate in (("sums", sums), ("peaks", peaks), ("ranks", ranks)):
        report[kind] = {str(n): simulate(simulation, REPEATS[kind], n) for n in NUMBERS}
    report["sums_where_one_row_fails_in_a_tenth_of_the_replications"] = {
        str(n): sums(simulation, REPEATS["sums"], n, failing=FAILING) for n in NUMBERS
    }
    report["sums_with_one_split_and_tokenizer_for_all_seeds"] = {
        str(n): sums(simulation, REPEATS["shared"], n, own=False) for n in (3, 12)
    }
    save("coverage", report)


if __name__ == "__main__":
    main()
