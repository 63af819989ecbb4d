"""The samplers against the formulas of their papers, on Gaussian data for which the perfect network is known."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.diffusion import METHODS, Process, sample_latents
from ldae.noise import SCHEDULES, Level
from ldae.objective import PREDICTIONS
from ldae.spec import Noise

Array = NDArray[np.float64]
Schedule = Literal["ddpm", "gamma2"]

SHIFT, SPREAD = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 1.0, 1.6])  # of the data, per dimension


class PerfectNetwork:
    """Predicts the expectation of its target for data N(SHIFT, SPREAD^2), and notes what it was given."""

    def __init__(self, prediction: str) -> None:
        self.prediction = PREDICTIONS[prediction]
        self.seen: list[Tensor] = []
        self.times: list[Tensor] = []
        self.levels: list[Level] = []

    def __call__(self, noisy: Tensor, time: Tensor, level: Level) -> Tensor:
        self.seen.append(noisy)
        self.times.append(time)
        self.levels.append(level)
        shift, spread = SHIFT.to(noisy), SPREAD.to(noisy)
        scaled = (noisy - level.signal * shift) / (level.signal**2 * spread**2 + level.noise**2)
        clean, noise = shift + level.signal * spread**2 * scaled, level.noise * scaled
        return self.prediction.clean(self.prediction.target(clean, noise, level), noisy, level)


class Textbook(NamedTuple):
    """Betas, alphas and alpha-bars, from index 1 on as in the papers; alpha-bar_0 is 1."""

    beta: Array
    alpha: Array
    alpha_bar: Array

    @classmethod
    def of(cls, schedule: str, steps: int) -> Textbook:
        if schedule == "ddpm":
            every = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        else:
            every = 1 - np.arange(1, 1001) / 1000
        chosen = every[np.round(np.linspace(0, 999, steps)).astype(int)] if steps > 1 else every[-1:]
        beta = np.array([0.0] + [min(1 - a / b, 0.999) for a, b in zip(chosen, [1.0, *chosen], strict=False)])
        return cls(beta, 1 - beta, np.cumprod(1 - beta))

    def predicted_noise(self, x: Array, t: int) -> Array:
        """E[eps | x_t] for the data above."""
        shift, spread, power = SHIFT.double().numpy(), SPREAD.double().numpy(), self.alpha_bar[t]
        return math.sqrt(1 - power) * (x - math.sqrt(power) * shift) / (power * spread**2 + 1 - power)

    def step(self, method: str, x: Array, t: int) -> tuple[Array, float]:
        """The mean and the deviation of x_{t-1} given x_t."""
        eps, now, before = self.predicted_noise(x, t), self.alpha_bar[t], self.alpha_bar[t - 1]
        if method == "ddim":  # Song et al. (2021), eq. 12, sigma_t = 0
            clean = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
            return math.sqrt(before) * clean + math.sqrt(1 - before) * eps, 0.0
        # Ho et al. (2020), algorithm 2, with the second of its variances
        mean = (x - self.beta[t] / math.sqrt(1 - now) * eps) / math.sqrt(self.alpha[t])
        return mean, math.sqrt((1 - before) / (1 - now) * self.beta[t])

    def moments(self, method: str) -> tuple[Array, Array]:
        """The exact mean and variance of the samples: every step is affine in x, so three points show its map."""
        mean, variance = np.zeros(3), np.ones(3)
        for t in range(len(self.beta) - 1, 0, -1):
            constant, deviation = self.step(method, np.zeros(3), t)
            slope = self.step(method, np.ones(3), t)[0] - constant
            mean, variance = slope * mean + constant, slope**2 * variance + deviation**2
        return mean, variance


def start(num: int, *, tokens: int = 1) -> Tensor:
    return torch.randn(num, tokens, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("steps", [1, 2, 10, 250])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["ddpm", "gamma2"])
def test_every_step_is_the_papers(schedule: Schedule, prediction: str, method: str, steps: int) -> None:
    noise, network = start(4, tokens=5), PerfectNetwork(prediction)
    process = Process.of(Noise(schedule=schedule), steps)
    generator = torch.Generator().manual_seed(2)
    last = sample_latents(network, process, noise, method=method, generator=generator)
    book, generator = Textbook.of(schedule, steps), torch.Generator().manual_seed(2)
    x = noise.double().numpy()
    for t, seen in zip(range(steps, 0, -1), [*network.seen[1:], last], strict=True):
        x, deviation = book.step(method, x, t)
        if deviation:
            x = x + deviation * torch.randn(noise.shape, generator=generator).double().numpy()
        np.testing.assert_allclose(seen, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["ddpm", "gamma2"])
def test_samples_have_the_mean_and_variance_that_the_steps_imply(
    schedule: Schedule, prediction: str, method: str
) -> None:
    num, steps = 20_000, 20
    process, generator = Process.of(Noise(schedule=schedule), steps), torch.Generator().manual_seed(3)
    network = PerfectNetwork(prediction)
    samples = sample_latents(network, process, start(num), method=method, generator=generator)[:, 0].numpy()
    mean, variance = Textbook.of(schedule, steps).moments(method)
    np.testing.assert_array_less(np.abs(samples.mean(0) - mean), 4 * np.sqrt(variance / num))
    np.testing.assert_array_less(np.abs(samples.var(0, ddof=1) - variance), 4 * variance * math.sqrt(2 / num))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["ddpm", "gamma2"])
def test_with_many_steps_samples_approach_the_data(schedule: Schedule, method: str) -> None:
    narrowed = []
    for steps in (10, 100, 1000):
        mean, variance = Textbook.of(schedule, steps).moments(method)
        narrowed.append(np.abs(1 - np.sqrt(variance) / SPREAD.numpy()).max())
    assert narrowed[0] > narrowed[1] > narrowed[2]
    assert narrowed[2] < 0.025
    np.testing.assert_allclose(mean, SHIFT, atol=0.025)  # not 0: the schedule leaves some signal at its end
    num, process = 4000, Process.of(Noise(schedule=schedule), 250)
    generator = torch.Generator().manual_seed(4)
    samples = sample_latents(PerfectNetwork("noise"), process, start(num), method=method, generator=generator)[:, 0]
    torch.testing.assert_close(samples.mean(0), SHIFT, rtol=0, atol=0.1)
    torch.testing.assert_close(samples.std(0), SPREAD, rtol=0.1, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", ["ddpm", "gamma2"])
def test_the_network_is_asked_at_the_processs_own_levels(schedule: Schedule, method: str) -> None:
    network, process = PerfectNetwork("clean"), Process.of(Noise(schedule=schedule), 7)
    result = sample_latents(network, process, start(4, tokens=2), method=method, generator=torch.Generator())
    assert result.shape == (4, 2, 3)
    assert [time.tolist() for time in network.times] == [[time] * 4 for time in process.times.flip(0).tolist()]
    for level, power in zip(network.levels, process.power.flip(0).tolist(), strict=True):
        assert level.signal.shape == level.noise.shape == (4, 1, 1)
        assert level.signal.dtype == level.noise.dtype == torch.float32
        assert level.signal.flatten().tolist() == pytest.approx([math.sqrt(power)] * 4)
        assert level.noise.flatten().tolist() == pytest.approx([math.sqrt(1 - power)] * 4)


@pytest.mark.parametrize("method", METHODS)
def test_the_last_step_returns_the_clean_latent_as_it_was_predicted(method: str) -> None:
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    process, answer = Process.of(Noise(schedule="gamma2"), 1), torch.full((2, 1, 3), 7.0)
    result = sample_latents(lambda noisy, time, level: answer, process, start(2), method=method, generator=generator)
    torch.testing.assert_close(result, answer)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_the_samples_and_ddim_needs_none(method: str) -> None:
    process = Process.of(Noise(schedule="gamma2"), 5)
    first, again, other = (
        sample_latents(
            PerfectNetwork("noise"), process, start(3), method=method, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (method == "ddim")


def test_the_times_are_even_and_distinct_for_every_number_of_steps() -> None:
    for steps in range(2, 1001):
        times = Process.of(Noise(schedule="gamma2"), steps).times
        assert (times[0].item(), times[-1].item(), len(times.unique())) == (0, 999, steps)
        assert (times - torch.linspace(0, 999, steps, dtype=torch.float64)).abs().max() < 0.5 + 1e-9
    assert Process.of(Noise(schedule="gamma2"), 1).times.tolist() == [999]


def test_all_steps_of_ddpm_are_its_schedule() -> None:
    process = Process.of(Noise(schedule="ddpm"), 1000)
    torch.testing.assert_close(process.power, SCHEDULES["ddpm"](0.0).signal ** 2)
    torch.testing.assert_close(process.beta, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2, 50, 250, 1000])
@pytest.mark.parametrize("schedule", ["ddpm", "gamma2"])
def test_some_signal_is_left_in_every_step_and_falls(schedule: Schedule, steps: int) -> None:
    process = Process.of(Noise(schedule=schedule), steps)
    assert float(process.power[-1]) > 0
    assert bool((process.power.diff() < 0).all())
    assert float(process.beta.max()) <= 0.999
    scheduled = SCHEDULES[schedule](0.0).signal[process.times] ** 2
    torch.testing.assert_close(process.power[:-1], scheduled[:-1])  # only the last is ever capped


@pytest.mark.parametrize("schedule", ["unscaled", "single"])
def test_schedules_without_a_process_are_refused(schedule: Literal["unscaled", "single"]) -> None:
    with pytest.raises(ValueError, match=f"^noise.schedule: '{schedule}' has no diffusion process .* 'gamma2'$"):
        Process.of(Noise(schedule=schedule), 10)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_numbers_of_steps_that_the_schedule_lacks_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"^steps: {steps} is outside 1 to 1000"):
        Process.of(Noise(schedule="gamma2"), steps)
