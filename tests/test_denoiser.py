from __future__ import annotations

import pytest
import torch
from rows import VARIANTS, denoiser, images, run

from ldae.dataset import to_float
from ldae.denoiser import Draws
from ldae.tokenizers.patches import patchify

LABELS = torch.arange(8) % 3


@pytest.mark.parametrize("row", VARIANTS)
def test_a_row_takes_finite_steps_and_learns(row: str) -> None:
    training = run(row)
    losses = []
    for _ in range(60):
        loss, norm, rate = training.update(images(), LABELS, 8)
        losses.append(loss.item())
        assert loss.isfinite() and norm.isfinite() and rate >= 0
    assert sum(losses[-10:]) < 0.99 * sum(losses[:10])


@pytest.mark.parametrize("row", VARIANTS)
def test_every_weight_has_a_gradient_once_the_zeros_are_gone(row: str) -> None:
    training = run(row)
    for _ in range(3):
        training.update(images(), LABELS, 8)
    draws = training.denoiser.draw(8, torch.Generator().manual_seed(0))
    training.denoiser(to_float(images()), LABELS, draws).sum().backward()
    silent = [name for name, p in training.network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("row", VARIANTS)
def test_a_network_that_answers_rightly_recovers_the_clean_latent_and_has_no_loss(
    row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, model = denoiser(row)
    pictures = to_float(images())
    if stage.network.output == "image" and not stage.objective.tail:
        pictures = model.tokenizer.decode(model.tokenizer.encode(pictures))  # the target is the projection
    clean = model.tokenizer.encode(pictures)
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
    torch.testing.assert_close(model.features(moved, time=10), model.features(pictures, time=10), rtol=1e-3, atol=1e-3)
    seen = model.view(model.tokenizer.encode(pictures))
    torch.testing.assert_close(seen, patchify(model.tokenizer.decode(model.tokenizer.encode(pictures)), 16))


def test_one_label_in_ten_is_dropped() -> None:
    _, model = denoiser("pca")
    keep = model.draw(5000, torch.Generator().manual_seed(0)).keep_label
    assert 0.88 < keep.float().mean() < 0.92


def test_features_take_the_probed_time_step() -> None:
    training = run("pca")
    for _ in range(5):
        training.update(images(), LABELS, 8)
    model, pictures = training.denoiser, to_float(images())
    with torch.no_grad():
        early, late = model.features(pictures, time=10), model.features(pictures, time=900)
    assert early.shape == (8, 4, 32)
    assert not torch.allclose(early, late)
