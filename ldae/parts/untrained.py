"""Networks with the weights that a training starts from, as their probe needs them: the reference of every gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from ldae.parts.denoiser import Denoiser
from ldae.parts.loading import build
from ldae.parts.methods.encoder import Encoder
from ldae.runtime.randomness import Stream, stream
from ldae.study.base import Size
from ldae.study.results import Manifest
from ldae.study.stage_specs import DenoiserStage, UntrainedFeatures


def untrained_denoiser(
    features: UntrainedFeatures, *, offsets: Sequence[int], seed: int, tokenizer: Path | None, manifest: Manifest
) -> Denoiser:
    """A denoiser with the weights that its training starts from, as deep as the probe of the blocks at `offsets` needs.

    Its gates are one, because closed gates make a block the identity.
    """
    encoder = features.encoder
    size = Size(
        width=encoder.width, heads=encoder.heads, encoder_blocks=encoder.blocks, decoder_blocks=max(1, *offsets)
    )
    stage = DenoiserStage(tokenizer=features.tokenizer, network=features.network, size=size)
    denoiser = build(stage, seed=seed, tokenizer=tokenizer, manifest=manifest)
    denoiser.network.open_gates()
    return denoiser.eval().requires_grad_(False)


def untrained_encoder(features: UntrainedFeatures, *, seed: int, image_size: int) -> nn.Module:
    """The encoder that a training by MAE or MoCo v3 starts from, or a published one's with random weights."""
    encoder = features.encoder
    size = Size(width=encoder.width, heads=encoder.heads, encoder_blocks=encoder.blocks, decoder_blocks=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, Stream.INITIAL))
        if features.has_class_token:
            return Encoder(size, image_size, class_token=True).eval().requires_grad_(False)
        build_encoder: Callable[..., nn.Module] = import_module(f"ldae.parts.methods.{features.method}").build_encoder
        return build_encoder(size, image_size).eval().requires_grad_(False)
