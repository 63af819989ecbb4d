"""The formulas of cost against what torch counts, and against published figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldae.parts.classifiers import SmallResNet, SmallVGG
from ldae.parts.folding import fold
from ldae.parts.methods.encoder import Encoder
from ldae.parts.methods.mae import MAE
from ldae.parts.methods.moco_v3 import MoCo
from ldae.parts.network import Transformer
from ldae.parts.tokenizers.conv import Autoencoder, Doubling
from ldae.parts.tokenizers.losses import PatchDiscriminator
from ldae.runtime.randomness import Randomness
from ldae.stages.finetune import vision_transformer
from ldae.study.base import Size
from ldae.study.cost import (
    VGG16,
    autoencoder_macs,
    classifier_vit_macs,
    discriminator_macs,
    small_resnet_macs,
    small_vgg_macs,
    transformer_macs,
    vgg_macs,
)
from ldae.study.methods import MAETraining, MoCoTraining, mae_macs, moco_macs


def counted(compute: Callable[[], object]) -> float:
    """Multiply-adds that happen in a computation."""
    plain = sdpa_kernel(SDPBackend.MATH)  # the fused kernels are counted only by newer versions of torch
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return counter.get_total_flops() / 2


IMAGES = torch.zeros(2, 3, 64, 64)  # two, since some networks normalise over the batch


@pytest.mark.parametrize(
    ("macs", "published"),
    [
        (
            transformer_macs(tokens=256, width=1152, blocks=28, in_dim=16, out_dim=32, conditioning=1152),
            118.64e9,  # DiT-XL/2
        ),
        (vgg_macs(224, VGG16), 15.35e9),  # without its classifier
    ],
)
def test_the_formula_gives_the_published_multiply_adds(macs: int, published: float) -> None:
    assert macs == pytest.approx(published, rel=1e-3)


ENCODER = Size(width=32, heads=2, encoder_blocks=2, decoder_blocks=2)


def test_the_transformer_s_formula_counts_what_it_does() -> None:
    network = Transformer(in_dim=6, out_dim=6, grid=3, size=ENCODER)
    found = counted(lambda: network(torch.zeros(1, 9, 6), torch.tensor([1])))
    assert found == transformer_macs(tokens=9, blocks=4, in_dim=6, out_dim=6, width=32, conditioning=8)


def test_the_tokenizer_s_formulas_count_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubling, "forward", nn.Sequential.forward)  # as defined; a CPU has a way with fewer products
    autoencoder = Autoencoder(width=8, blocks=2, channels=4)
    encode, decode = autoencoder_macs(size=64, width=8, blocks=2, channels=4)
    assert counted(lambda: autoencoder.posterior(IMAGES)) == 2 * encode
    assert counted(lambda: autoencoder.decode(torch.zeros(2, 4, 8, 8))) == 2 * decode
    assert counted(lambda: PatchDiscriminator(8)(IMAGES)) == 2 * discriminator_macs(64, 8)


def test_the_classifiers_formulas_count_what_they_do() -> None:
    assert counted(lambda: SmallVGG(5, 8).stages(IMAGES)) == 2 * small_vgg_macs(64, 8)
    assert counted(lambda: SmallResNet(5, 8).features(IMAGES)) == 2 * small_resnet_macs(64, 8)


def test_the_formula_of_fine_tuning_counts_what_its_network_does() -> None:
    encoder = Encoder(ENCODER, 64)
    network = vision_transformer(fold(encoder, time=10, offset=0), classes=5, seed=0)
    found = counted(lambda: network(IMAGES))
    assert found == 2 * classifier_vit_macs(tokens=16, width=32, blocks=2, classes=5)


RECIPE = {"steps": 1, "batch": 8, "rate": 0.1, "warmup": 0.0}


def test_the_formulas_of_methods_count_what_they_do() -> None:
    recipe = MAETraining(**RECIPE, decoder_width=16, decoder_heads=2, decoder_blocks=1)
    mae = MAE(ENCODER, recipe, 64)
    order = mae.draw(2, Randomness(torch.device("cpu"), 0))
    assert counted(lambda: mae(IMAGES, order)) == 2 * mae_macs(16, 32, 2, recipe)
    recipe = MoCoTraining(**RECIPE, hidden=24, out=8)
    moco = MoCo(ENCODER, recipe, 64)
    found = counted(lambda: moco.predictor(moco.projector(moco.encoder(IMAGES).mean(1))))
    key = counted(lambda: moco.averaged_projector(moco.averaged_encoder(IMAGES).mean(1)))
    assert moco_macs(16, 32, 2, recipe) == pytest.approx(found + key / 3, rel=1e-6)
