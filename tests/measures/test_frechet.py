"""The Fréchet distance against the textbook formula, and its extrapolation against a distance that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from ldae.measures.frechet import Reference, extrapolate
from ldae.parts.moments import Moments


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(*batches: Tensor) -> Moments:
    return Moments.of(batches)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    return Reference(mean2, covariance2).distance(mean1, covariance1)


def covariance(dims: int, *, rank: int | None = None, condition: float = 1e4, seed: int = 0) -> Tensor:
    basis = torch.linalg.qr(normal(dims, dims, seed=seed))[0]
    variance = torch.logspace(0, -math.log10(condition), dims, dtype=torch.float64)
    variance[dims if rank is None else rank :] = 0
    return (basis * variance) @ basis.T


def textbook(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    root: NDArray[np.complexfloating] = sqrtm((covariance1 @ covariance2).numpy())
    trace = covariance1.trace() + covariance2.trace() - 2 * float(np.trace(root).real)
    return float((mean1 - mean2).square().sum() + trace)


def from_eigenvalues(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    values = np.linalg.eigvals((covariance1 @ covariance2).numpy()).real
    trace = covariance1.trace() + covariance2.trace() - 2 * float(np.sqrt(values.clip(0)).sum())
    return float((mean1 - mean2).square().sum() + trace)


@pytest.mark.parametrize("dims", [2, 30, 300])
def test_the_distance_is_that_of_the_matrix_square_root(dims: int) -> None:
    first, second = covariance(dims, seed=1), 1.3 * covariance(dims, seed=2)
    mean1, mean2 = 0.1 * normal(2, dims, seed=3)
    distance = frechet_distance(mean1, first, mean2, second)
    assert distance == pytest.approx(textbook(mean1, first, mean2, second), rel=1e-6)
    assert distance == pytest.approx(frechet_distance(mean2, second, mean1, first), rel=1e-9)


def test_the_matrices_are_not_taken_for_ones_that_commute() -> None:
    first = torch.tensor([[2.0, 0.9], [0.9, 0.5]], dtype=torch.float64)
    second = torch.tensor([[0.6, -0.5], [-0.5, 1.5]], dtype=torch.float64)
    zero = torch.zeros(2).double()
    # (Tr R)^2 = Tr R^2 + 2 det R for any 2 x 2 matrix R
    root = math.sqrt((first @ second).trace().item() + 2 * math.sqrt((first.det() * second.det()).item()))
    expected = (first + second).trace().item() - 2 * root
    assert frechet_distance(zero, first, zero, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [(12, None), (None, 12), (12, 12), (12, 5), (1, 40)])
def test_rank_deficient_covariances_are_allowed(ranks: tuple[int | None, int | None]) -> None:
    dims = 40
    first, second = covariance(dims, rank=ranks[0], seed=1), 1.3 * covariance(dims, rank=ranks[1], seed=2)
    mean1, mean2 = 0.1 * normal(2, dims, seed=3)
    distance = frechet_distance(mean1, first, mean2, second)
    assert distance == pytest.approx(from_eigenvalues(mean1, first, mean2, second), rel=1e-6)
    almost = 1e-13 * torch.eye(dims, dtype=torch.float64)  # enough for the textbook's root to exist
    assert distance == pytest.approx(textbook(mean1, first + almost, mean2, second + almost), rel=1e-4)


@pytest.mark.parametrize("rank", [30, 7, 1, 0])
def test_matrices_that_commute_differ_by_their_deviations(rank: int) -> None:
    basis = torch.linalg.qr(normal(30, 30))[0]
    deviation1, deviation2 = 0.05 * (normal(2, 30, seed=1).abs() + 0.1)
    deviation1[rank:] = 0
    deviation2[: max(rank // 2, 1)] = 0  # singular in other directions, too
    zero = torch.zeros(30).double()
    distance = frechet_distance(zero, (basis * deviation1**2) @ basis.T, zero, (basis * deviation2**2) @ basis.T)
    assert distance == pytest.approx((deviation1 - deviation2).square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("samples", [500, 20])
def test_identical_sets_have_no_distance(samples: int) -> None:
    features = moments(normal(samples, 50))
    assert frechet_distance(features.mean, features.covariance, features.mean, features.covariance) < 1e-10


def test_features_that_never_vary_change_nothing() -> None:
    first, second = normal(2, 200, 12, seed=4)
    second = 1.5 * second + 0.3
    padded = [torch.nn.functional.pad(x, (0, 5), value=2.0) for x in (first, second)]
    expected, distance = (
        frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
        for one, other in ((moments(first), moments(second)), (moments(padded[0]), moments(padded[1])))
    )
    assert distance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stream_has_the_moments_of_the_whole_whatever_its_offset(offset: float, dtype: torch.dtype) -> None:
    features = (normal(1000, 7) @ normal(7, 7, seed=1) + offset).to(dtype)
    streamed = moments(*features.split([1, 400, 0, 599]))
    centred = features.double().numpy() - offset
    assert streamed.count == 1000
    np.testing.assert_allclose(streamed.mean - offset, centred.mean(0), atol=1e-9)
    np.testing.assert_allclose(streamed.covariance, np.cov(centred.T), rtol=1e-9, atol=1e-9)


def test_merged_moments_are_those_of_all_features_together() -> None:
    features = normal(300, 6) @ normal(6, 6, seed=1) + 1e6
    parts = [moments(part) for part in features.split([10, 1, 150, 139])]
    merged, joint = Moments.merged([Moments(), *parts]), moments(features)
    assert merged.count == 300
    torch.testing.assert_close(merged.mean, joint.mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(merged.covariance, joint.covariance, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts[2].covariance, moments(features[11:161]).covariance, rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_samples_have_no_moments(count: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 samples, found {count}"):
        _ = moments(normal(count, 3)).covariance
    with pytest.raises(ValueError, match=f"at least 2 samples, found {count}"):
        _ = moments(normal(count, 3)).mean


def test_features_that_are_not_finite_are_refused() -> None:
    broken = moments(torch.tensor([[0.0, 1.0], [math.nan, 2.0]]))
    whole = torch.zeros(2), torch.eye(2)
    for first, second in (((broken.mean, broken.covariance), whole), (whole, (broken.mean, broken.covariance))):
        with pytest.raises(ValueError, match="finite"):
            frechet_distance(*first, *second)


def test_an_extrapolation_needs_three_folds() -> None:
    with pytest.raises(ValueError, match="at least 3 folds, found 2"):
        extrapolate([moments(normal(9, 2)), moments(normal(9, 2))], Reference(torch.zeros(2), torch.eye(2)))


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.4])
def test_the_extrapolated_distance_is_nearly_unbiased_and_its_error_is_realistic(gap: float) -> None:
    # Asked of 120 draws of 10 folds: a bias below a tenth of the plain distance's or within the chance of the draws,
    # and the truth within 2 errors in 95 % of them. An interval of 2 errors with 9 degrees of freedom covers 92 %, and
    # the jackknife overstates the error where the true distance is near 0, so 87 % to 100 % are accepted.
    dims, samples, draws = 6, 600, 120
    mixing = torch.eye(dims).double() + 0.3 * normal(dims, dims, seed=1)
    mean, reference = torch.full((dims,), gap).double(), (1 + gap) * mixing @ mixing.T
    truth = frechet_distance(torch.zeros(dims), mixing @ mixing.T, mean, reference)
    found, target = [], Reference(mean, reference)
    for seed in range(draws):
        features = normal(samples, dims, seed=100 + seed) @ mixing.T
        found.append(extrapolate([moments(fold) for fold in features.chunk(10)], target))
    value, infinite, error = np.array(found).T
    chance = infinite.std() / math.sqrt(draws)
    assert value.mean() - truth > 3 * chance
    assert abs(infinite.mean() - truth) < 0.1 * (value.mean() - truth) + 2.5 * chance
    assert abs(infinite.mean() - truth) < abs(value.mean() - truth)
    assert 0.8 < math.sqrt((error**2).mean()) / infinite.std() < 1.6
    assert 0.87 <= np.mean(np.abs(infinite - truth) < 2 * error) <= 1


def test_an_extrapolation_values_all_samples_and_favours_no_fold() -> None:
    features = normal(300, 5) + 0.2
    folds = [moments(fold) for fold in features.chunk(10)]
    reference = Reference(torch.zeros(5), torch.eye(5))
    found, whole = extrapolate(folds, reference), moments(features)
    assert found.value == pytest.approx(reference.distance(whole.mean, whole.covariance))
    assert extrapolate(folds[3:] + folds[:3], reference) == pytest.approx(found)
