"""The patch-wise VAE and AE against their losses written out on samples, and against the theory of their optima."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldae.parts.tokenizers import patch_vae, pca
from ldae.parts.tokenizers.patches import patchify

DIM, FULL = 3, 12


@pytest.fixture(scope="module")
def data() -> Tensor:
    """Correlated vectors (4000, 12) with a mean."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(FULL, FULL, generator=generator, dtype=torch.float64) * torch.linspace(2, 0.1, FULL)
    return torch.randn(4000, FULL, generator=generator, dtype=torch.float64) @ mixing.T + 3


@pytest.fixture(scope="module")
def autoencoder(data: Tensor) -> dict[str, Tensor]:
    """A fit without a KL divergence."""
    return patch_vae.minimise([data], dim=DIM, kl=0.0, seed=0)


def components(data: Tensor) -> tuple[Tensor, Tensor]:
    """Centred data in the coordinates of its principal components, and their variances."""
    fitted = pca.fit([data])
    return (data - fitted["mean"]) @ fitted["basis"].T, fitted["variance"]


def test_the_expected_error_is_the_mean_over_samples(data: Tensor) -> None:
    samples, variance = components(data[:2000])
    generator = torch.Generator().manual_seed(1)
    encode, decode = (torch.randn(DIM, FULL, generator=generator, dtype=torch.float64) for _ in range(2))
    noise = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    total = 0.0
    for x in samples:
        z = encode @ x + noise.sqrt() * torch.randn(DIM, generator=generator, dtype=torch.float64)
        total += float(((x - decode.T @ z) ** 2).sum())
    assert float(patch_vae.expected_error(encode, decode.T, variance, noise)) == pytest.approx(total / 2000, rel=0.03)


def test_the_expected_kl_is_the_mean_over_samples(data: Tensor) -> None:
    samples, component_variance = components(data)
    encode = 0.1 * torch.randn(DIM, FULL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    total = 0.0
    for x in samples:
        for mean, variance in zip(encode @ x, noise, strict=True):
            total += 0.5 * float(mean**2 + variance - 1 - math.log(variance))
    expected = total / len(samples)
    assert float(patch_vae.expected_kl(encode, component_variance, noise)) == pytest.approx(expected, rel=1e-3)


def test_the_autoencoder_finds_the_subspace_of_pca(data: Tensor, autoencoder: dict[str, Tensor]) -> None:
    best = pca.fit([data])
    product = autoencoder["decode"] @ autoencoder["encode"]
    projection = best["basis"][:DIM].T @ best["basis"][:DIM]
    torch.testing.assert_close(product, projection, atol=1e-3, rtol=0)


def test_the_autoencoder_s_directions_are_no_principal_components(autoencoder: dict[str, Tensor]) -> None:
    gram = torch.corrcoef(autoencoder["encode"])
    assert (gram - torch.eye(DIM)).abs().max() > 0.05


def test_the_vae_is_probabilistic_pca(data: Tensor) -> None:
    """With weight b the reconstruction's noise is b / 2, and components below it are not used (Lucas et al., 2019)."""
    kl = 100.0
    variance = pca.fit([data])["variance"]
    used = int((variance[:DIM] > kl / 2).sum())
    assert 0 < used < DIM, "the data should have components on both sides"
    fitted = patch_vae.minimise([data], dim=DIM, kl=kl, seed=0)
    ordered = fitted["variance"].sort(descending=True).values
    expected = (1 - kl / 2 / variance[:DIM]).clamp_min(0)
    torch.testing.assert_close(ordered, expected, atol=1e-2, rtol=1e-2)


def test_a_fit_has_the_mean_of_the_data_and_the_variance_of_its_latents(data: Tensor) -> None:
    fitted = patch_vae.minimise(data.split(500), dim=DIM, kl=0.01, seed=0)
    latents = (data - fitted["mean"]) @ fitted["encode"].T
    torch.testing.assert_close(fitted["mean"], data.mean(0))
    torch.testing.assert_close(latents.var(0), fitted["variance"], rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth images (200, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.interpolate(torch.randn(200, 3, 4, 4, generator=generator), size=32, mode="bicubic")


@pytest.fixture(scope="module")
def fitted(images: Tensor) -> dict[str, Tensor]:
    return patch_vae.minimise([patchify(images, 16).flatten(0, 1)], dim=8, kl=0.0, seed=0)


@pytest.mark.parametrize("scale", ["global", "dimension"])
def test_a_tokenizer_standardises_and_gives_back_the_projection(
    scale: str, images: Tensor, fitted: dict[str, Tensor]
) -> None:
    tokenizer = patch_vae.build(fitted, dim=8, scale=scale)
    latents = tokenizer.encode(images)
    assert latents.shape == (200, 4, 8)
    assert latents.flatten(0, 1).mean(0).abs().max() < 1e-3
    spread = latents.flatten(0, 1).var(0)
    if scale == "dimension":
        torch.testing.assert_close(spread, torch.ones(8), rtol=1e-2, atol=1e-2)
    else:
        assert spread.mean().item() == pytest.approx(1.0, rel=1e-2)
    again = tokenizer.encode(tokenizer.decode(latents))
    torch.testing.assert_close(again, latents, rtol=1e-2, atol=1e-2)


def test_a_fit_of_another_dimension_is_refused(autoencoder: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="tokenizer.dim: 5, but the fit has 3 dimensions"):
        patch_vae.build(autoencoder, dim=5, scale="global")
