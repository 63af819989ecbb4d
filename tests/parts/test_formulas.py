"""Noise schedules, predictions and weights: the algebra that rows are made of."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ldae.parts.noise import TIMES, Level, NoiseSchedule
from ldae.parts.objective import ERRORS, PREDICTIONS, WEIGHTS, projected_error
from ldae.runtime.randomness import Randomness
from ldae.study.base import Config
from ldae.study.checking import alternatives
from ldae.study.schedules import SCHEDULES, sampleable
from ldae.study.spec import Noise, Objective


@pytest.mark.parametrize(
    ("part", "key", "registry"),
    [
        (Noise, "schedule", SCHEDULES),
        (Noise, "times", TIMES),
        (Objective, "predict", PREDICTIONS),
        (Objective, "weight", WEIGHTS),
        (Objective, "error", ERRORS),
    ],
)
def test_a_row_can_name_the_words_of_a_registry_and_no_others(
    part: type[Config], key: str, registry: dict[str, Any]
) -> None:
    for word in registry:
        assert getattr(part.model_validate({key: word}), key) == word
    with pytest.raises(ValidationError, match=re.escape(f"should be {alternatives(registry)}")):
        part.model_validate({key: "unknown"})


def level_of(schedule: str, *, sigma: float = 1.0) -> Level:
    """All levels of a schedule, in float64."""
    return Level(*(torch.tensor(strengths, dtype=torch.float64) for strengths in SCHEDULES[schedule](sigma)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**20))
def test_a_perfect_prediction_recovers_the_clean_latent(
    prediction: str, schedule: str, share: float, seed: int
) -> None:
    levels = NoiseSchedule(Noise(schedule=schedule)).double()
    time = torch.tensor([round(share * (levels.num_times - 1))])
    level = levels.level(time)
    if level.signal.item() == 0:
        return  # nothing is left to recover it from
    generator = torch.Generator().manual_seed(seed)
    clean, noise = torch.randn(2, 1, 5, 7, generator=generator, dtype=torch.float64)
    noisy = level.signal * clean + level.noise * noise
    formulation = PREDICTIONS[prediction]
    recovered = formulation.clean(formulation.target(clean, noise, level), noisy, level)
    torch.testing.assert_close(recovered, clean, rtol=1e-6, atol=1e-6)


def test_ddpm_is_the_running_product_of_its_betas() -> None:
    power = np.cumprod([1 - (1e-4 + (0.02 - 1e-4) * t / 999) for t in range(1000)])
    level = level_of("ddpm")
    np.testing.assert_allclose(level.signal**2, power, rtol=1e-10)
    assert float((level.signal**2 < 0.1).double().mean()) == pytest.approx(0.525, abs=0.005)


def test_gamma2_is_linear_and_spends_less_time_on_noise() -> None:
    level = level_of("gamma2")
    np.testing.assert_allclose(np.diff(level.signal**2), -1e-3, rtol=1e-9)
    assert 0.99 < float(level.signal[0]) < 1
    assert float(level.signal[-1]) == 0
    assert float((level.signal**2 < 0.1).double().mean()) == pytest.approx(0.1, abs=0.002)


def test_unscaled_leaves_the_signal_and_ends_at_root_two() -> None:
    level = level_of("unscaled")
    assert set(level.signal.tolist()) == {1.0}
    assert float(level.noise[0]) == 0
    assert float(level.noise[10]) == pytest.approx(0.014, abs=5e-4)
    assert float(level.noise[-1]) == pytest.approx(math.sqrt(2))


def test_a_single_level_is_trained_and_probed_at_the_same_time() -> None:
    schedule = NoiseSchedule(Noise(schedule="single"))
    drawn = schedule.draw(50, Randomness(torch.device("cpu"), 0))
    assert set(drawn.tolist()) == {schedule.nearest(10)}
    assert schedule.level(drawn).noise.unique().item() == pytest.approx(math.sqrt(1 / 3))


@pytest.mark.parametrize("schedule", sampleable())
def test_variance_preserving_schedules_preserve_it_and_weigh_by_gamma_squared(schedule: str) -> None:
    level = level_of(schedule)
    torch.testing.assert_close(level.signal**2 + level.noise**2, torch.ones_like(level.signal))
    torch.testing.assert_close(WEIGHTS["signal"](level), level.signal**2)


def test_without_input_scaling_the_weight_is_one_over_one_plus_sigma_squared() -> None:
    level = level_of("unscaled")
    torch.testing.assert_close(WEIGHTS["signal"](level), 1 / (1 + level.noise**2))


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_are_finite_shares(weight: str, schedule: str) -> None:
    values = WEIGHTS[weight](level_of(schedule))
    assert float(values.min()) >= 0
    assert float(values.max()) <= 1


@pytest.mark.parametrize("tail", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("units", ["pixel", "whitened"])
def test_projected_error_is_equation_4(tail: float, units: str) -> None:
    generator = torch.Generator().manual_seed(0)
    whole, dim = 24, 5
    full = torch.linalg.qr(torch.randn(whole, whole, generator=generator, dtype=torch.float64))[0].T
    output, target = torch.randn(2, 3, 4, whole, generator=generator, dtype=torch.float64)
    spread = torch.linspace(3, 0.5, dim, dtype=torch.float64) if units == "whitened" else torch.ones(dim).double()
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for n in range(3):
        for t in range(4):
            for i in range(whole):
                r = full[i] @ (target[n, t] - output[n, t])
                expected[n, t] += (r / spread[i]) ** 2 if i < dim else tail * (r / spread[-1]) ** 2
    error = projected_error(output, target, basis=full[:dim], deviation=spread, tail=tail)
    torch.testing.assert_close(error, expected / dim)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_training_draws_time_steps_of_the_schedule(schedule: str, times: str) -> None:
    noise = NoiseSchedule(Noise(schedule=schedule, times=times))
    drawn = noise.draw(1000, Randomness(torch.device("cpu"), 0))
    assert (drawn.dtype, drawn.shape) == (torch.int64, (1000,))
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < noise.num_times


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_zero_at_the_target_and_grow_away_from_it(error: str) -> None:
    target = torch.linspace(-1, 1, 5)
    assert float(ERRORS[error](target, target).abs().max()) == 0
    near, far = (ERRORS[error](target + shift, target) for shift in (0.1, 2.0))
    assert bool((0 < near).all() and (near < far).all())
