"""The processor or accelerator that a stage computes on, and how networks run there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldae.runtime.machine import cpu_name


def pick_device() -> torch.device:
    """The accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The name of the processor or accelerator."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def compile_blocks(blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Compiles a network's blocks in place on an accelerator; on a CPU it would take longer than it saves."""
    if device.type == "cuda":
        for block in blocks:
            block.compile(dynamic=False)  # one that serves several shapes would be slower


def recompute_activations(blocks: Iterable[nn.Module]) -> None:
    """Recomputes activations for the backward pass: a third slower, in a fraction of the memory, the same numbers."""
    for block in blocks:
        setattr(block, "forward", partial(checkpoint, block.forward, use_reentrant=False))  # noqa: B010


def mixed_precision(device: torch.device) -> torch.autocast:
    """bf16 for the network on CUDA; fp32 on the CPU, where bf16 gains little and would cost reproducibility."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")
