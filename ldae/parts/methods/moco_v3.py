"""MoCo v3: contrastive learning of two views of each image (Chen, Xie & He, 2021)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ldae.parts.methods.encoder import Encoder
from ldae.runtime import ranks
from ldae.runtime.device import mixed_precision
from ldae.study.base import Size
from ldae.study.methods import MoCoTraining

TEMPERATURE = 0.2
MOMENTUM = 0.99  # of the averaged networks at the start, from where it rises to 1


def momentum_at(share: float) -> float:
    """The momentum after a share of the training: half a cosine from MOMENTUM to 1."""
    return 1 - 0.5 * (1 + math.cos(math.pi * share)) * (1 - MOMENTUM)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, each normalised over the batch; the last norm learns nothing."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(before, after, bias=False), ranks.BatchNorm(after), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Linear(widths[-2], widths[-1], bias=False), ranks.BatchNorm(widths[-1], affine=False)
    )


def info_nce(queries: Tensor, keys: Tensor) -> Tensor:
    """The InfoNCE loss (N,) of queries (N, out) and keys (N, out), scaled by 2 * temperature as in MoCo v3."""
    queries, keys = F.normalize(queries.float(), dim=1), ranks.all_gather(F.normalize(keys.float(), dim=1))
    positive = ranks.number() * len(queries) + torch.arange(len(queries), device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):  # bf16 would round the logits to steps of 0.03
        logits = queries @ keys.T / TEMPERATURE
    return 2 * TEMPERATURE * F.cross_entropy(logits, positive, reduction="none")


def build_encoder(size: Size, image_size: int) -> Encoder:
    """An encoder with MoCo v3's initial weights."""
    encoder = Encoder(size, image_size)
    for name, parameter in encoder.named_parameters():
        if name.endswith("qkv.weight"):  # three matrices in one: each is drawn as if it stood alone
            bound = math.sqrt(6 / (len(parameter) / 3 + parameter.shape[1]))
            nn.init.uniform_(parameter, -bound, bound)
    return encoder


class MoCo(nn.Module):
    """An encoder with projector and predictor, and averages of the first two, which give the keys."""

    def __init__(self, size: Size, recipe: MoCoTraining, image_size: int) -> None:
        """Builds an encoder of this size and the heads of a recipe."""
        super().__init__()
        self.encoder = build_encoder(size, image_size)
        # a fixed random patch projection keeps the training stable (its Sec. 4.2)
        self.encoder.embed.requires_grad_(False)
        self.projector = mlp(size.width, recipe.hidden, recipe.hidden, recipe.out)
        self.predictor = mlp(recipe.out, recipe.hidden, recipe.out)
        self.averaged_encoder, self.averaged_projector = (
            copy.deepcopy(network).requires_grad_(False) for network in (self.encoder, self.projector)
        )

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks of the encoder and of its average."""
        return [*self.encoder.blocks, *self.averaged_encoder.get_submodule("blocks").children()]

    @torch.no_grad()
    def before_step(self, progress: float) -> None:
        """Moves the averages towards the networks, before the step at which a share of the training is over."""
        averages: list[Tensor] = [*self.averaged_encoder.parameters(), *self.averaged_projector.parameters()]
        weights: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - momentum_at(progress))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss (N,) of two views of each image, (N, 3, S, S) each."""
        with mixed_precision(first.device):
            queries = [self.predictor(self.projector(self.encoder(view).mean(1))) for view in (first, second)]
            with torch.no_grad():
                keys = [self.averaged_projector(self.averaged_encoder(view).mean(1)) for view in (first, second)]
            return info_nce(queries[0], keys[1]) + info_nce(queries[1], keys[0])


build = MoCo
