"""Verdicts, the rows that must have learnt, and the number of replications, from rows whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.measures.coverage import NUMBERS, VARIANCE, Simulation, Variance, a_claim, peaks, ranks, sums
from ldae.measures.power import Needed, replications, spread_range
from ldae.readers.ranks import spearman_bounds
from ldae.readers.results import Results, RowResult
from ldae.readers.verdicts import ClaimFinding, has_learnt, judge
from ldae.study.file import Claim

COMPONENTS = Variance.model_validate_json(VARIANCE.read_text())
SWEEP = {"peak": "sweep", "points": tuple((f"r{row}", 8 * 2**row) for row in range(5))}


def simulation() -> Simulation:
    return Simulation(COMPONENTS)


def exact(accuracies: Sequence[Sequence[float]], *, learnt: Sequence[bool] = ()) -> Results:
    """Rows r0, r1, ... with given accuracies in percent for each of four or more seeds; `learnt` says which have."""
    results = simulation().replicate([0.0] * len(accuracies), len(accuracies[0]))
    rows = {}
    for (name, row), values, is_learnt in zip(
        results.rows.items(), accuracies, learnt or [True] * len(accuracies), strict=True
    ):
        shares = np.array(values)[:, None] / 100
        linear = replace(row.linear, values=shares, random_values=shares - (0.15 if is_learnt else 0.01))
        rows[name] = replace(row, measures={"linear": linear})
    return replace(results, rows=rows)


def test_a_sum_is_judged_by_the_t_interval_of_paired_differences() -> None:
    first, second = [30.0, 33.0, 29.0, 32.0, 31.0], [27.0, 31.0, 28.0, 29.0, 28.0]
    found = judge(a_claim(2, sum={"r0": 1, "r1": -1}, above=0), exact([first, second]), "accuracy")
    expected = stats.ttest_rel(first, second).confidence_interval()
    assert found.quantity is not None and found.quantity[:3] == pytest.approx((2.4, expected.low, expected.high))
    assert (found.verdict, found.n, found.said) == ("holds", 5, "holds")
    assert found.s == pytest.approx(np.std(np.subtract(first, second), ddof=1))


def test_rows_are_compared_over_the_seeds_that_they_share() -> None:
    results = exact([[30.0, 33.0, 29.0, 32.0, 31.0, 90.0], [28.0, 32.0, 28.0, 30.0, 28.0, 0.0]])
    rows = {"r0": results.rows["r0"], "r1": results.rows["r1"].at([4, 3, 2, 1, 0])}
    found = judge(a_claim(2, sum={"r0": 1, "r1": -1}, above=0), replace(results, rows=rows), "accuracy")
    assert found.n == 5 and found.quantity is not None and found.quantity.value == pytest.approx(1.8)
    rows["r1"] = results.rows["r1"].at([5])
    rows["r0"] = results.rows["r0"].at([0])
    with pytest.raises(ValueError, match="rows r0, r1: have no seed in common"):
        judge(a_claim(2, sum={"r0": 1, "r1": -1}, above=0), replace(results, rows=rows), "accuracy")


ABOVE, BELOW = {"above": 0}, {"below": 0}
DIFFERENCE = {"sum": {"r0": 1, "r1": -1}}


@pytest.mark.parametrize(
    ("claim", "learnt", "untested"),
    [
        (DIFFERENCE | ABOVE, [True, False], ""),  # the worse row may fail: that is the claim
        (DIFFERENCE | ABOVE, [False, True], "r0"),
        (DIFFERENCE | {"above": 5}, [True, False], ""),
        (DIFFERENCE | BELOW, [False, True], ""),
        (DIFFERENCE | BELOW, [True, False], "r1"),
        (DIFFERENCE | {"above": -1}, [True, False], "r1"),  # non-inferiority
        (DIFFERENCE | {"below": 1}, [False, True], "r0"),
        (DIFFERENCE | {"within": 1}, [False, False], "r0 and r1"),
        ({"sum": {"r0": 1, "r1": 0}, "within": 1}, [True, False], ""),  # it does not count
    ],
)
def test_a_claim_is_tested_where_the_rows_that_it_needs_have_learnt(
    claim: dict[str, Any], learnt: list[bool], untested: str
) -> None:
    results = exact([[30.0, 33.0, 29.0, 32.0], [28.0, 32.0, 28.0, 30.0]], learnt=learnt)
    found = judge(a_claim(2, **claim), results, "accuracy")
    assert (found.verdict == "not tested") == bool(untested)
    assert found.said.startswith("not tested") == bool(untested)
    if untested:
        assert found.said == f"not tested: {untested} {'have' if ' and ' in untested else 'has'} not learnt"


def test_a_peak_is_tested_where_its_best_named_value_has_learnt() -> None:
    accuracies = [[points + seed for seed in range(4)] for points in (25.0, 30.0, 35.0, 20.0, 20.0)]
    for learnt, is_tested in (([False, True, False, False, False], True), ([True, False, True, True, True], False)):
        found = judge(a_claim(5, **SWEEP, among=[8, 16]), exact(accuracies, learnt=learnt), "accuracy")
        assert found.verdict == ("does not hold" if is_tested else "not tested")
        assert found.unlearnt == (() if is_tested else ("r1",))


def test_a_row_has_learnt_when_its_whole_gain_is_above_two_points() -> None:
    def row(*gains: float) -> RowResult:
        results = exact([[30.0] * len(gains)])
        linear = results.rows["r0"].linear
        random_values = linear.values - np.array(gains)[:, None] / 100
        return replace(results.rows["r0"], measures={"linear": replace(linear, random_values=random_values)})

    assert has_learnt(row(2.5, 2.6, 2.4, 2.5))
    assert not has_learnt(row(1.9, 1.9, 1.9, 1.9))
    assert not has_learnt(row(1.0, 9.0, 1.0, 9.0))  # 5 on average, but who knows


@pytest.mark.parametrize(
    ("accuracies", "among", "verdict"),
    [
        ((20, 30, 25, 24, 20), [16], "holds"),
        ((20, 30, 29.9, 24, 20), [16, 32], "holds"),  # the two named values need not differ
        ((20, 30, 29.9, 24, 20), [16], "undecided"),
        ((20, 30, 29.9, 24, 20), [8], "does not hold"),
        ((20, 30, 25, 24, 20), [32, 64], "does not hold"),
    ],
)
def test_a_peak_is_decided_by_paired_comparisons(accuracies: Sequence[float], among: list[int], verdict: str) -> None:
    rng = np.random.default_rng(0)
    together = 3 * rng.standard_normal(8)
    results = exact([value + together + 0.3 * rng.standard_normal(8) for value in accuracies])  # type: ignore[misc]
    found = judge(a_claim(5, **SWEEP, among=among), results, "accuracy")
    assert found.verdict == verdict
    quantity = found.quantity
    assert quantity is not None and quantity.low < quantity.value < quantity.high
    assert verdict == ("holds" if quantity.low > 0 else "does not hold" if quantity.high < 0 else "undecided")


def test_the_bounds_of_ranks_are_those_of_all_orders_that_are_possible() -> None:
    nothing = np.zeros((4, 4), dtype=bool)
    total = np.arange(4)[:, None] > np.arange(4)
    assert spearman_bounds(total, total) == pytest.approx((1, 1))
    assert spearman_bounds(total, total.T) == pytest.approx((-1, -1))
    assert spearman_bounds(nothing, total) == pytest.approx((-1, 1))
    top = nothing.copy()
    top[3, :3] = True  # the last row is above all others, whose order is open
    expected = [stats.spearmanr([*order, 3], range(4)).statistic for order in permutations(range(3))]
    assert spearman_bounds(top, total) == pytest.approx((min(expected), max(expected)))


def test_a_rank_correlation_of_rows_far_apart_is_known_and_one_of_equal_rows_is_not() -> None:
    claim = a_claim(5, rank=[f"r{row}" for row in range(5)], below=0.5)
    distances = (40.0, 60.0, 80.0, 100.0, 120.0)
    apart = judge(claim, simulation().replicate((80, 60, 40, 20, 0), 4, distances=distances), "accuracy")
    assert apart.verdict == "does not hold" and apart.quantity is not None
    assert apart.quantity[:3] == pytest.approx((1, 1, 1))
    equal = judge(claim, simulation().replicate((30,) * 5, 4, distances=distances), "accuracy")
    assert equal.verdict == "undecided" and equal.quantity is not None and equal.quantity.high > 0.9
    with pytest.raises(ValueError, match="rows whose samples were judged"):
        judge(claim, simulation().replicate((30,) * 5, 4), "accuracy")


def test_a_rank_correlation_is_of_two_to_seven_rows() -> None:
    for count in (1, 8):
        with pytest.raises(ValueError, match="rank"):
            Claim(text="", where="", rank=[f"r{row}" for row in range(count)], above=0)


@pytest.mark.parametrize("distance", [0.8, 1.0, 2.0, 4.0])
def test_the_number_of_replications_is_the_smallest_with_the_power(distance: float) -> None:
    def enough(n: int) -> bool:
        quantiles = stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.80, n - 1)
        return bool(quantiles * 2.3 / np.sqrt(n) <= distance)

    n = replications(distance, 2.3)
    assert n is not None and enough(n) and not enough(n - 1)
    assert replications(0.1, 2.3) is None  # over 200


def test_with_this_number_four_of_five_studies_give_a_verdict() -> None:
    n, rng = replications(1.5, 2.3), np.random.default_rng(0)
    assert n is not None
    values = rng.normal(1.5, 2.3, (4000, n))
    lows = values.mean(1) - stats.t.ppf(0.975, n - 1) * values.std(1, ddof=1) / np.sqrt(n)
    assert (lows > 0).mean() == pytest.approx(0.8, abs=0.03)


def test_an_equivalence_takes_more_replications_than_one_margin() -> None:
    both, one = replications(1.0, 2.3, far=1.0), replications(1.0, 2.3)
    assert both is not None and one is not None and both > one
    assert replications(0.2, 1.0, far=1.8) == replications(0.2, 1.0)  # the other margin is far


def test_more_seeds_do_not_make_shared_images_more() -> None:
    assert replications(1.0, 0.1, shared_error=0.2) is not None
    assert replications(1.0, 0.1, shared_error=0.5) is None


def test_the_range_is_from_the_spreads_interval() -> None:
    low, high = spread_range(2.0, 8)
    assert low**2 == pytest.approx(7 * 4 / stats.chi2.ppf(0.9, 7))
    assert high**2 == pytest.approx(7 * 4 / stats.chi2.ppf(0.1, 7))


@pytest.mark.parametrize(
    ("needed", "text"),
    [
        (Needed(9, 16), "1 to 8 more"),
        (Needed(4, 9), "1 more"),
        (Needed(20, 20), "12 more"),
        (Needed(20, None), "12 more to over 200 in all"),
        (Needed(None, None), "over 200 in all"),
    ],
)
def test_an_undecided_claim_says_how_many_more_seeds_it_takes(needed: Needed, text: str) -> None:
    finding = ClaimFinding(quantity=None, text="", verdict="undecided", n=8, needed=needed)
    assert finding.said == f"undecided ({text})"
    assert finding.model_copy(update={"verdict": "holds"}).said == "holds"


@pytest.mark.parametrize("n", NUMBERS)
def test_intervals_cover_the_truth_over_splits_and_tokenizers(n: int) -> None:
    """Nineteen of twenty; the benchmark of the same name has more simulated studies."""
    found = sums(simulation(), 800, n)
    assert 0.93 <= found["covered"] <= 0.97
    assert 0.92 <= found["reruns"] <= 0.98


def test_verdicts_on_peaks_are_seldom_wrong_also_where_the_best_are_equal() -> None:
    assert all(case["wrong"] <= 0.05 for case in peaks(simulation(), 150, 8).values())


def test_the_bounds_of_ranks_cover_also_nearly_equal_rows() -> None:
    found = ranks(simulation(), 100, 8)
    assert all(case["covered"] >= 0.93 and case["wrong"] <= 0.05 for case in found.values())


def test_seeds_that_share_a_split_and_a_tokenizer_cover_too_little() -> None:
    assert sums(simulation(), 40, 12, own=False)["covered"] < 0.9
