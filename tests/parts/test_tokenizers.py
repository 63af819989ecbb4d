from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import Tensor

from ldae.parts import tokenizers
from ldae.parts.tokenizers import module_of, pca, pixel
from ldae.parts.tokenizers.patches import patchify, unpatchify
from ldae.study.spec import Tokenizer
from ldae.study.tokenizers import PIXEL_PATCHES, TOKENIZERS, TokenizerKind


def pictures(num: int = 120, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return (0.4 * smooth + 0.05 * torch.randn(num, 3, size, size, generator=generator)).clamp(-1, 1)


def patches_of(images: Tensor, patch: int = 16) -> Tensor:
    return patchify(pixel.resize(images, patch), patch).flatten(0, 1)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Tensor]:
    return pca.fit(patches_of(pictures(num=500)).split(300))


def test_patches_of_an_image_are_its_pixels() -> None:
    images = pictures(2)
    patches = patchify(images, 16)
    torch.testing.assert_close(patches[1, 2].view(3, 16, 16), images[1, :, 16:, :16])
    torch.testing.assert_close(unpatchify(patches, 16), images)


def test_pca_equals_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((500, 12)) @ rng.standard_normal((12, 12)) + 100 * rng.standard_normal(12)
    ours = pca.fit(torch.from_numpy(data).split(77))
    theirs = PCA(svd_solver="full").fit(data)
    np.testing.assert_allclose(ours["mean"], theirs.mean_, rtol=1e-10)
    np.testing.assert_allclose(ours["variance"], theirs.explained_variance_, rtol=1e-8)
    np.testing.assert_allclose((ours["basis"] * torch.from_numpy(theirs.components_)).sum(1).abs(), 1, rtol=1e-8)


def test_signs_are_fixed_and_batches_do_not_matter() -> None:
    data = patches_of(pictures(60))[:, ::16].double()
    first, second = pca.fit([data]), pca.fit(data.split(31))
    torch.testing.assert_close(first["basis"], second["basis"], rtol=1e-6, atol=1e-8)
    assert all(row[row.abs().argmax()] > 0 for row in first["basis"])


@pytest.mark.parametrize("fit", [pca.fit, pixel.fit])
def test_too_few_patches_are_refused(fit: object) -> None:
    with pytest.raises(ValueError, match="at least 2 samples, found"):
        fit([torch.zeros(1, 768)])  # type: ignore[operator]


@settings(max_examples=12, deadline=None)
@given(dim=st.integers(1, 768), scale=st.sampled_from(["dimension", "global"]))
def test_decoding_a_pca_code_is_the_projection(fitted: dict[str, Tensor], dim: int, scale: str) -> None:
    tokenizer = tokenizers.build(Tokenizer(dim=dim, scale=scale), fitted)
    images = pictures(3, seed=1)
    basis, mean = fitted["basis"][:dim].float(), fitted["mean"].float()
    expected = (patchify(images, 16) - mean) @ basis.T @ basis + mean
    once = tokenizer.decode(tokenizer.encode(images))
    torch.testing.assert_close(patchify(once, 16), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(once)), once, rtol=1e-4, atol=2e-3)


def test_whitening_gives_each_dimension_unit_variance(fitted: dict[str, Tensor]) -> None:
    latents = tokenizers.build(Tokenizer(dim=32, scale="dimension"), fitted).encode(pictures(num=500)).flatten(0, 1)
    torch.testing.assert_close(latents.std(0), torch.ones(32), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents.mean(0), torch.zeros(32), rtol=0, atol=1e-3)


def test_a_global_scale_keeps_the_proportions_of_the_components(fitted: dict[str, Tensor]) -> None:
    latents = tokenizers.build(Tokenizer(dim=32, scale="global"), fitted).encode(pictures(num=500)).flatten(0, 1)
    proportions = latents.var(0) / fitted["variance"][:32].float()
    torch.testing.assert_close(proportions, proportions.mean().expand(32), rtol=1e-3, atol=0)
    assert latents.var(0).mean().item() == pytest.approx(1, rel=1e-3)


def test_data_without_full_rank_gives_silent_dimensions() -> None:
    grey = pictures(200)[:, :1].expand(-1, 3, -1, -1)
    fitted = pca.fit([patches_of(grey)])
    assert int((fitted["variance"] > 1e-8 * fitted["variance"][0]).sum()) <= 256
    tokenizer = tokenizers.build(Tokenizer(dim=400, scale="dimension"), fitted)
    latents = tokenizer.encode(grey)
    assert latents.isfinite().all()
    assert latents[..., 300:].abs().max() < 0.05
    torch.testing.assert_close(tokenizer.decode(latents), grey, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dim", PIXEL_PATCHES)
def test_pixel_tokens_keep_their_number_and_are_standardised(dim: int) -> None:
    images = pictures(num=400, size=64)
    fitted = pixel.fit(patches_of(images, PIXEL_PATCHES[dim]).split(999))
    tokenizer = tokenizers.build(Tokenizer(kind="pixel", dim=dim, scale="dimension"), fitted)
    latents = tokenizer.encode(images)
    assert latents.shape == (400, 16, dim)
    torch.testing.assert_close(latents.flatten(0, 1).std(0), torch.ones(dim), rtol=1e-3, atol=1e-3)
    decoded = tokenizer.decode(latents)
    assert decoded.shape == images.shape
    small = pixel.resize(images, PIXEL_PATCHES[dim])
    torch.testing.assert_close(pixel.resize(decoded, PIXEL_PATCHES[dim]), small, rtol=0, atol=1e-4)


def test_full_pixels_are_lost_nowhere() -> None:
    images = pictures(50)
    tokenizer = tokenizers.build(Tokenizer(kind="pixel", dim=768), pixel.fit([patches_of(images)]))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), images, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "traits"), TOKENIZERS.items(), ids=TOKENIZERS)
def test_every_kind_has_a_module_of_its_name(kind: str, traits: TokenizerKind) -> None:
    module = module_of(kind)
    assert callable(module.build)
    assert traits.trained or callable(module.fit)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(1, 1000), scale=st.sampled_from(["dimension", "global"]))
def test_all_components_are_pixels_up_to_a_rotation_with_one_scale_alone(
    fitted: dict[str, Tensor], seed: int, scale: str
) -> None:
    """With one scale, a row on 768 components and one on pixels differ in nothing that a rotation keeps.

    These are inner products of latents, their spectrum, and the directions of pixels that noise on latents is
    strongest in. Unit variance per dimension changes each of them.
    """
    every = pixel.fit(patches_of(pictures(num=500)).split(300))
    components = tokenizers.build(Tokenizer(dim=768, scale=scale), fitted)
    pixels = tokenizers.build(Tokenizer(kind="pixel", dim=768, scale=scale), every)
    images = pictures(40, seed=seed)
    codes = [tokenizer.encode(images).flatten(0, 1).double() for tokenizer in (components, pixels)]
    inner = [code @ code.T / 768 for code in codes]
    noise = torch.randn(40, 4, 768, generator=torch.Generator().manual_seed(seed))
    spectra = [torch.linalg.svdvals(code)[:20] / len(code) ** 0.5 for code in codes]
    on_images = [tokenizer.decode(noise) - tokenizer.decode(0 * noise) for tokenizer in (components, pixels)]
    pairs = [inner, spectra, [torch.linalg.svdvals(each.flatten(1))[:3] for each in on_images]]
    alike = [torch.allclose(first.double(), second.double(), rtol=0.01, atol=0.01) for first, second in pairs]
    assert alike == [scale == "global"] * 3
