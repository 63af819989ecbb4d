"""The samplers against the formulas of their papers, on Gaussian data for which the perfect network is known."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.parts.diffusion import METHODS, Process, sample_latents
from ldae.parts.noise import Level
from ldae.parts.objective import PREDICTIONS
from ldae.study.schedules import SCHEDULES, Levels, sampleable, variance_preserving
from ldae.study.spec import Noise

Array = NDArray[np.float64]

MADE_UP = {  # schedules that somebody may add
    "cosine": variance_preserving(
        math.cos((t / 999 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1000)
    ),  # ends at 4e-33
    "from_one_to_zero": variance_preserving(1 - t / 999 for t in range(1000)),
}
WITHOUT_PROCESS = {
    "flow": Levels(tuple(1 - t / 1000 for t in range(1000)), tuple(t / 1000 for t in range(1000))),
    "exploding": Levels((1.0,) * 1000, tuple(math.exp(t / 100 - 5) for t in range(1000))),
    "signal_left": variance_preserving(1 - 0.5 * t / 999 for t in range(1000)),
    "jump": variance_preserving([0.9, 0.5, 0.0]),
    "rising": variance_preserving([0.9, 0.95, 0.001]),
}
SAMPLED = [*sampleable(), *MADE_UP]


@pytest.fixture(autouse=True)
def _more_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, levels in (MADE_UP | WITHOUT_PROCESS).items():
        monkeypatch.setitem(SCHEDULES, name, lambda _, levels=levels: levels)


def process_of(schedule: str, steps: int) -> Process:
    return Process.of(Noise.model_construct(schedule=schedule), steps)  # type: ignore[arg-type]


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
        power = np.square(SCHEDULES[schedule](1.0).signal)
        every = power[(power < 1) & (power > 1e-5)]  # DDPM's last, where DiT starts, is 4e-5
        steps = min(steps, len(every))
        chosen = every[np.round(np.linspace(0, len(every) - 1, steps)).astype(int)] if steps > 1 else every[-1:]
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
@pytest.mark.parametrize("schedule", SAMPLED)
def test_every_step_is_the_papers(schedule: str, prediction: str, method: str, steps: int) -> None:
    noise, network = start(4, tokens=5), PerfectNetwork(prediction)
    process = process_of(schedule, steps)
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
@pytest.mark.parametrize("schedule", SAMPLED)
def test_samples_have_the_mean_and_variance_that_the_steps_imply(schedule: str, prediction: str, method: str) -> None:
    num, steps = 20_000, 20
    process, generator = process_of(schedule, steps), torch.Generator().manual_seed(3)
    network = PerfectNetwork(prediction)
    samples = sample_latents(network, process, start(num), method=method, generator=generator)[:, 0].numpy()
    mean, variance = Textbook.of(schedule, steps).moments(method)
    np.testing.assert_array_less(np.abs(samples.mean(0) - mean), 4 * np.sqrt(variance / num))
    np.testing.assert_array_less(np.abs(samples.var(0, ddof=1) - variance), 4 * variance * math.sqrt(2 / num))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SAMPLED)
def test_with_many_steps_samples_approach_the_data(schedule: str, method: str) -> None:
    narrowed = []
    for steps in (10, 100, 1000):
        mean, variance = Textbook.of(schedule, steps).moments(method)
        narrowed.append(np.abs(1 - np.sqrt(variance) / SPREAD.numpy()).max())
    assert narrowed[0] > narrowed[1] > narrowed[2]
    assert narrowed[2] < 0.025
    num, process = 4000, process_of(schedule, 250)
    missed = float(process.power[-1].sqrt()) * float((SHIFT * SPREAD).abs().max())  # the signal where sampling starts
    np.testing.assert_allclose(mean, SHIFT, atol=missed + 0.005)
    generator = torch.Generator().manual_seed(4)
    samples = sample_latents(PerfectNetwork("noise"), process, start(num), method=method, generator=generator)[:, 0]
    torch.testing.assert_close(samples.mean(0), SHIFT, rtol=0, atol=missed + 0.08)
    torch.testing.assert_close(samples.std(0), SPREAD, rtol=0.1, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SAMPLED)
def test_the_network_is_asked_at_the_processs_own_levels(schedule: str, method: str) -> None:
    network, process = PerfectNetwork("clean"), process_of(schedule, 7)
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
    process, answer = process_of("gamma2", 1), torch.full((2, 1, 3), 7.0)
    result = sample_latents(lambda noisy, time, level: answer, process, start(2), method=method, generator=generator)
    torch.testing.assert_close(result, answer)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_the_samples_and_ddim_needs_none(method: str) -> None:
    process = process_of("gamma2", 5)
    first, again, other = (
        sample_latents(
            PerfectNetwork("noise"), process, start(3), method=method, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (method == "ddim")


@pytest.mark.parametrize(("schedule", "first", "last"), [("ddpm", 0, 999), ("gamma2", 0, 998), ("cosine", 0, 996)])
def test_the_times_are_even_and_distinct(schedule: str, first: int, last: int) -> None:
    for steps in (*range(2, 40), *range(40, 990, 19), *range(990, 1001)):
        times, num = process_of(schedule, steps).times, min(steps, last - first + 1)
        assert (times[0].item(), times[-1].item(), len(times.unique())) == (first, last, num)
        assert (times - torch.linspace(first, last, num, dtype=torch.float64)).abs().max() < 0.5 + 1e-9
    assert process_of(schedule, 1).times.tolist() == [last]


def test_all_steps_of_ddpm_are_its_schedule() -> None:
    process = process_of("ddpm", 1000)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(process.power, torch.cumprod(1 - beta, 0))
    torch.testing.assert_close(process.beta, beta)


@pytest.mark.parametrize("steps", [1, 2, 4, 50, 250, 1000])
@pytest.mark.parametrize("schedule", SAMPLED)
def test_every_step_has_the_schedules_own_signal_and_never_none(schedule: str, steps: int) -> None:
    process = process_of(schedule, steps)
    scheduled = torch.tensor(SCHEDULES[schedule](1.0).signal, dtype=torch.float64)[process.times] ** 2
    assert float(scheduled.min()) >= 1e-5
    assert float(process.power.max()) < 1
    assert bool((process.power.diff() < 0).all())
    assert float(process.beta.max()) <= 0.999
    if steps > 4:  # else the step from noise alone is capped
        torch.testing.assert_close(process.power, scheduled)


@pytest.mark.parametrize(
    ("schedule", "steps"), [*itertools.product(sampleable(), [10]), *itertools.product(SAMPLED, [50, 250])]
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_networks_small_errors_stay_small_in_the_samples(
    schedule: str, prediction: str, method: str, steps: int
) -> None:
    """The root mean square of the network's errors is 0.05, where that of its target is about 1."""
    perfect, formulation = PerfectNetwork(prediction), PREDICTIONS[prediction]
    generator, errors = (torch.Generator().manual_seed(seed) for seed in (6, 7))

    def imperfect(noisy: Tensor, time: Tensor, level: Level) -> Tensor:
        clean = perfect(noisy, time, level)
        target = formulation.target(clean, (noisy - level.signal * clean) / level.noise, level)
        return formulation.clean(target + 0.05 * torch.randn(target.shape, generator=errors), noisy, level)

    process = process_of(schedule, steps)
    samples = sample_latents(imperfect, process, start(4000), method=method, generator=generator)[:, 0].double()
    mean, variance = Textbook.of(schedule, steps).moments(method)  # of the samples by a perfect network
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(samples.std(0), np.sqrt(variance), rtol=0.15)


@pytest.mark.parametrize("steps", [250, 1000])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schedule", SAMPLED)
def test_no_step_leads_to_where_a_network_was_never_trained(schedule: str, method: str, steps: int) -> None:
    """A network that predicts no more noise than it saw in training cannot undo a step that goes too far."""
    perfect, errors = PerfectNetwork("noise"), torch.Generator().manual_seed(7)

    def bounded(noisy: Tensor, time: Tensor, level: Level) -> Tensor:
        noise = (noisy - level.signal * perfect(noisy, time, level)) / level.noise
        noise = noise.clamp(-5, 5) + 0.1 * torch.randn(noise.shape, generator=errors)
        return (noisy - level.noise * noise) / level.signal

    process, generator = process_of(schedule, steps), torch.Generator().manual_seed(6)
    samples = sample_latents(bounded, process, start(4000), method=method, generator=generator)[:, 0].double()
    mean, variance = Textbook.of(schedule, steps).moments(method)
    np.testing.assert_allclose(samples.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(samples.std(0), np.sqrt(variance), rtol=0.15)


@pytest.mark.parametrize(
    ("schedule", "obstacle"),
    [
        ("unscaled", "should be 1 at every time step, and is 3 at one"),
        ("single", "should be 1 at every time step, and is 1.33 at one"),
        ("flow", "should be 1 at every time step, and is 0.5 at one"),
        ("exploding", "should be 1 at every time step"),
        ("signal_left", "starts from noise alone, .* the last has 0.5"),
        ("jump", "starts from noise alone"),
        ("rising", "should never rise"),
    ],
)
def test_schedules_without_a_process_are_refused_for_what_their_levels_are(schedule: str, obstacle: str) -> None:
    assert schedule not in sampleable()
    expected = f"^noise.schedule: '{schedule}' has no diffusion process to sample from: .*{obstacle}.*ddpm, gamma2"
    with pytest.raises(ValueError, match=expected):
        process_of(schedule, 10)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_numbers_of_steps_that_the_schedule_lacks_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"^steps: {steps} is outside 1 to 1000"):
        process_of("gamma2", steps)
