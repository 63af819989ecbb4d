from __future__ import annotations

import math

import pytest
import torch
from rows import VARIANTS, denoiser, images, run

from ldae.data.prepared import choose_mirrored, flip, to_float
from ldae.parts.denoiser import Draws
from ldae.parts.tokenizers.patches import patchify
from ldae.runtime.randomness import Randomness

LABELS = torch.arange(8) % 3
PARTS = ("tokenizer", "noise", "network", "objective", "recipe")  # that a denoiser is composed of
SIZES = ("dim", "sigma", "size", "length", "rate", "batch", "weight_decay")  # numbers in the same code
LOSSES = ("perceptual", "adversarial")  # of the tokenizer's training, which these rows skip


def one_of_each_kind() -> list[str]:
    """The first row with each choice: what no row before it has."""
    rows, seen = [], set()
    for row, variant in VARIANTS.items():
        parts = variant.spec.model_dump()
        chosen = {
            (part, key, value) for part in PARTS for key, value in parts[part].items() if key not in SIZES + LOSSES
        }
        if not chosen <= seen:
            rows.append(row)
        seen |= chosen
    return rows


@pytest.mark.parametrize("row", one_of_each_kind())
def test_a_row_learns(row: str) -> None:
    training = run(row)
    losses = []
    for _ in range(30):
        measured = training.update(images(), LABELS)
        losses.append(float(measured["loss"]))
        assert all(map(math.isfinite, map(float, measured.values())))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize("row", VARIANTS)
def test_steps_are_finite_and_every_weight_has_a_gradient_once_the_zeros_are_gone(row: str) -> None:
    training = run(row)
    for _ in range(3):
        measured = training.update(images(), LABELS)
        assert all(map(math.isfinite, map(float, measured.values())))
    model = training.task.parallel  # the denoiser itself: there is one rank
    draws = model.draw(8, Randomness(torch.device("cpu"), 0))
    model(to_float(images()), LABELS, draws).sum().backward()
    silent = [name for name, p in model.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("row", VARIANTS)
def test_a_network_that_answers_rightly_recovers_the_clean_latent_and_has_no_loss(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, model = denoiser(row)
    pictures = to_float(images())
    if stage.network.output == "image" and not stage.objective.tail:
        pictures = model.tokenizer.decode(model.tokenizer.encode(pictures))  # the target is the projection
    clean = model.encode(pictures)
    time = torch.full((8,), model.noise.nearest(300))
    draws = Draws(time, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), torch.ones(8).bool())
    level = model.noise.level(time)
    answer = patchify(pictures, 16) if model.image_output else model.prediction.target(clean, draws.noise, level)
    monkeypatch.setattr(model.network, "forward", lambda tokens, time, labels=None: answer)
    noisy = level.signal * clean + level.noise * draws.noise
    torch.testing.assert_close(model.predict_clean(noisy, time), clean, rtol=1e-3, atol=1e-3)
    assert model(pictures, LABELS, draws).abs().max() < 1e-5


def test_rows_on_images_see_only_the_projection() -> None:
    _, model = denoiser("ldae")
    model.network.open_gates()
    pictures = to_float(images())
    basis = model.projection.basis
    outside = torch.randn(8, 4, 768, generator=torch.Generator().manual_seed(0))
    outside = outside - outside @ basis.T @ basis
    moved = pictures + 0.1 * outside.unflatten(1, (2, 2)).unflatten(3, (3, 16, 16)).permute(0, 3, 1, 4, 2, 5).reshape(
        pictures.shape
    )
    features = [model.features(model.encode(seen), time=10)[0] for seen in (moved, pictures)]
    torch.testing.assert_close(*features, rtol=1e-3, atol=1e-3)
    seen = model.view(model.tokenizer.encode(pictures))
    torch.testing.assert_close(seen, patchify(model.tokenizer.decode(model.tokenizer.encode(pictures)), 16))


def test_one_label_in_ten_is_dropped() -> None:
    _, model = denoiser("pca")
    keep = model.draw(5000, Randomness(torch.device("cpu"), 0)).keep_label
    assert 0.88 < keep.float().mean() < 0.92


def test_features_take_the_probed_time_step() -> None:
    training = run("pca")
    for _ in range(5):
        training.update(images(), LABELS)
    model = training.task.parallel  # the denoiser itself: there is one rank
    latents = model.encode(to_float(images()))
    with torch.no_grad():
        early, late = (model.features(latents, time=time)[0] for time in (10, 900))
    assert early.shape == (8, 4, 32)
    assert not torch.allclose(early, late)


def test_one_pass_gives_the_features_of_several_blocks() -> None:
    _, model = denoiser("pca")
    model.network.open_gates()
    latents = model.encode(to_float(images()))
    both = model.features(latents, time=10, offsets=[1, 0])
    for offset, features in zip((1, 0), both, strict=True):
        torch.testing.assert_close(features, model.features(latents, time=10, offsets=[offset])[0])
    assert not torch.allclose(*both)


def test_cached_latents_are_those_of_the_images() -> None:
    _, model = denoiser("conv_vae")
    pictures = to_float(images())
    cached = torch.stack([model.tokenizer.raw(seen) for seen in (pictures, pictures.flip(-1))], dim=1)  # type: ignore[attr-defined]
    for seed in range(4):
        chosen = choose_mirrored(cached.half(), Randomness(torch.device("cpu"), seed))
        mirrored = flip(pictures, Randomness(torch.device("cpu"), seed))
        torch.testing.assert_close(model.encode(chosen), model.encode(mirrored), rtol=0.01, atol=0.01)


def test_noise_of_a_time_step_is_as_strong_as_its_schedule_says() -> None:
    _, model = denoiser("no_scaling")
    clean = torch.zeros(2000, 4, 32)
    noisy = model.corrupt(clean, 500, Randomness(torch.device("cpu"), 0))
    assert noisy.std().item() == pytest.approx(500 / 999 * math.sqrt(2), rel=0.02)
