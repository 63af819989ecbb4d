from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ldae.measures import intervals as statistics
from ldae.measures.intervals import estimate, grouped_mean, outlying, seed_interval


def test_independent_images_give_the_binomial_interval() -> None:
    correct = (np.arange(2000) % 10 < 3).astype(float)
    estimate = grouped_mean(correct, np.arange(2000))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert estimate.value == pytest.approx(0.3)
    assert estimate.low == pytest.approx(0.3 - half, abs=0.002)
    assert estimate.high == pytest.approx(0.3 + half, abs=0.002)


def test_images_of_a_group_are_not_counted_as_independent() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), 20)
    correct = (rng.random(100) < 0.4).astype(float)[groups]  # a group is right or wrong as a whole
    clustered, naive = grouped_mean(correct, groups), grouped_mean(correct, np.arange(2000))
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(math.sqrt(20), rel=0.1)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.random(1000)
    first, second = (difficulty < 0.5).astype(float), (difficulty < 0.45).astype(float)
    paired = grouped_mean(first - second, np.arange(1000))
    single = grouped_mean(first, np.arange(1000))
    assert paired.low > 0
    assert paired.high - paired.low < 0.6 * (single.high - single.low)


def test_seeds_widen_the_interval_by_their_t_interval() -> None:
    correct = np.stack([(np.arange(900) % 10 < share).astype(float) for share in (3, 4, 2)])
    groups = np.tile(np.arange(900), (3, 1))
    expected = stats.t.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert seed_interval(correct.mean(1)) == pytest.approx(expected)
    plain, widened = grouped_mean(correct.mean(0), groups[0]), estimate(correct, groups, own_splits=False)
    assert widened.high - widened.value == pytest.approx(math.hypot(plain.high - plain.value, expected))


def test_four_replications_with_their_own_splits_have_their_t_interval_and_a_prediction() -> None:
    shares = np.array([0.30, 0.34, 0.29, 0.33])
    correct = (np.arange(100) < 100 * shares[:, None]).astype(float)
    groups = np.arange(400).reshape(4, 100)  # no replication has an image of another
    found = estimate(correct, groups, own_splits=True)
    expected = stats.ttest_1samp(shares, 0).confidence_interval()
    assert found[:3] == pytest.approx((shares.mean(), expected.low, expected.high))
    half = stats.t.ppf(0.975, 3) * shares.std(ddof=1) * math.sqrt(1 + 1 / 4)
    assert found.prediction == pytest.approx((shares.mean() - half, shares.mean() + half))
    with_images = estimate(correct[:3], groups[:3], own_splits=True)
    assert with_images.high - with_images.value > seed_interval(shares[:3])


def test_replications_with_their_own_splits_are_resampled_independently() -> None:
    """Two replications on other images are as sure as one with twice as many; on the same images they are not."""
    correct = (np.random.default_rng(0).random(400) < 0.4).astype(float)
    both, groups = np.stack([correct, correct]), np.tile(np.arange(400), (2, 1))
    ratio = [np.diff(estimate(both, groups, own_splits=own)[1:3])[0] for own in (False, True)]
    assert ratio[0] / ratio[1] == pytest.approx(math.sqrt(2), rel=0.05)


def test_one_seed_has_no_spread() -> None:
    correct, groups = (np.arange(90) % 3 < 1).astype(float), np.arange(90)
    for own_splits in (False, True):
        assert estimate(correct[None], groups[None], own_splits=own_splits) == grouped_mean(correct, groups)
    assert grouped_mean(correct, groups).prediction is None


def test_memory_is_bounded_without_changing_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    correct, groups = (np.arange(500) % 10 < 3).astype(float), np.arange(500) // 5
    whole = grouped_mean(correct, groups)
    monkeypatch.setattr(statistics, "CHUNK", 5000)
    assert grouped_mean(correct, groups) == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize(
    ("accuracies", "places"),
    [
        ([0.288, 0.156, 0.283], [1]),
        ([0.15, 0.28, 0.156], [1]),
        ([0.28, 0.15, 0.29, 0.15, 0.285], [1, 3]),
        ([0.28, 0.15, 0.29, 0.15], []),  # as many as the others
        ([0.28, 0.15], []),
        ([0.30], []),
        ([0.213, 0.257, 0.264], []),  # an ordinary spread
        ([0.1, 0.2, 0.3, 0.4], []),
        ([0.3, 0.3, 0.3], []),
    ],
)
def test_seeds_that_did_not_train_as_the_others_did_are_found(accuracies: list[float], places: list[int]) -> None:
    assert outlying(accuracies) == places
