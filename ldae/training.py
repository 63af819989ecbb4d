"""What every kind of training shares: rate schedule, averaged weights, checkpoint and resume."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldae.files import whole


def pick_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The name of the processor or accelerator."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """The rate of a step: linear warm-up over a share `warmup` of all steps, then half a cosine to zero (App. A)."""
    warm = warmup * total
    if step < warm:
        return peak * (step + 1) / (math.floor(warm) + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


class Averaged:
    """An exponential moving average of a network's weights, whose decay is warmed up: min(decay, (1 + s)/(10 + s))."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._ours: list[Tensor] = list(self.network.parameters())
        self._theirs: list[Tensor] = list(network.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._ours, self._theirs, 1 - decay)


def gradient_norm(network: nn.Module) -> Tensor:
    """The Euclidean norm of all gradients, as a scalar tensor."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values whole."""
    with whole(path) as partial:
        torch.save(state, partial)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state
