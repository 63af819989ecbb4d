"""Stage: fits a tokenizer to patches sampled at random from the training images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split, to_float
from ldae.measures.reconstruction import collapsed, psnr
from ldae.parts.tokenizers import build, fit
from ldae.parts.tokenizers.patches import patchify
from ldae.parts.tokenizers.pixel import resize
from ldae.runtime.files import checksums
from ldae.runtime.progress import progress
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH
from ldae.study.record import Options, origin_of, provenance
from ldae.study.results import TokenizerRecord
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import TokenizerStage
from ldae.study.tokenizers import TOKENIZERS

IMAGES = 1024  # a batch
MEASURED_DIMS = (8, 16, 32, 64, 128)  # of a fit that serves all, those with a measured reconstruction: the paper's


def sampled_patches(train: Split, *, patch: int, num_patches: int, seed: int) -> Iterator[Tensor]:
    """Batches of patches (n, 3 * patch^2): the same number from every image, at random positions of the token grid."""
    rng = np.random.default_rng(seed)
    tokens = (train.size // PATCH) ** 2
    num_images = min(len(train), -(-num_patches // tokens))
    per_image = min(tokens, -(-num_patches // num_images))
    numbers = np.sort(rng.permutation(len(train))[:num_images])
    with progress("patches", num_images, "images") as bar:
        for start in range(0, num_images, IMAGES):
            images, _ = train.batch(numbers[start : start + IMAGES], torch.device("cpu"))
            patches = patchify(resize(to_float(images), patch), patch)  # (n, T, d)
            if per_image < tokens:
                positions = rng.permuted(np.tile(np.arange(tokens), (len(images), 1)), axis=1)[:, :per_image]
                patches = torch.take_along_dim(patches, torch.from_numpy(positions)[:, :, None], dim=1)
            yield patches.flatten(0, 1)
            bar.advance(len(images))


def fit_tokenizer(stage: TokenizerStage, **options: Unpack[Options]) -> None:
    """Writes `tokenizer.safetensors`, and `tokenizer.json` with its reconstruction error and unused dimensions."""
    dataset, out, origin = options["dataset"], options["out"], origin_of("tokenizer", stage, options)
    seed = options["seed"]
    train, val = Split.open(dataset, "train", seed), Split.open(dataset, "val", seed)
    patches = sampled_patches(train, patch=stage.patch, num_patches=stage.fitting.patches, seed=seed)
    fitted = fit(patches, stage, seed=seed)
    save_weights(out / "tokenizer.safetensors", fitted)
    variance, kind = fitted["variance"], TOKENIZERS[stage.kind]
    dims = [dim for dim in MEASURED_DIMS if dim <= len(variance)] if kind.one_fit else [len(variance)]
    reconstructions = {
        dim: psnr(build(Tokenizer(kind=stage.kind, dim=dim), fitted), val, torch.device("cpu")) for dim in dims
    }
    explained = variance.cumsum(0) / variance.sum().clamp_min(1e-30)
    TokenizerRecord(
        seed=seed,
        kind=stage.kind,
        dims=len(variance),
        collapsed_dims=collapsed(variance, has_prior=kind.has_prior),
        psnr={dim: round(value, 3) for dim, value in reconstructions.items()},
        explained=[round(float(share), 6) for share in explained],
        **origin,
        sha256=checksums(out / "tokenizer.safetensors"),
        provenance=provenance("CPU"),
    ).write(out / "tokenizer.json")
