from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from ldae.training.step import AdamW

BETAS = (0.5, 0.9)


def layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 3)]


def take_steps(optimizer: AdamW | torch.optim.Optimizer, network: list[nn.Linear], numbers: range) -> None:
    """Steps on random inputs; the last layer has no gradient in the first two of all steps."""
    for number in numbers:
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(number))
        for layer in network[: 2 if number < 2 else 3]:
            x = layer(x).tanh()
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + number) * group.get("scale", 1)
        optimizer.zero_grad()
        x.square().sum().backward()
        optimizer.step()


def groups(network: list[nn.Linear]) -> list[dict[str, object]]:
    decaying = {"params": [layer.weight for layer in network], "weight_decay": 0.3}
    return [decaying, {"params": [layer.bias for layer in network], "weight_decay": 0.0, "scale": 0.5}]


def weights(network: list[nn.Linear]) -> list[torch.Tensor]:
    return [parameter for layer in network for parameter in layer.parameters()]


def test_steps_are_those_of_torchs_adamw() -> None:
    ours, theirs = layers(), layers()
    take_steps(AdamW(groups(ours), betas=BETAS), ours, range(6))
    take_steps(torch.optim.AdamW(groups(theirs), betas=BETAS, fused=True), theirs, range(6))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_without_decay_they_are_those_of_adam() -> None:
    ours, theirs = layers(), layers()
    take_steps(AdamW([{"params": weights(ours)}], betas=BETAS), ours, range(6))
    take_steps(torch.optim.Adam(weights(theirs), betas=BETAS, fused=True), theirs, range(6))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_a_state_that_was_saved_goes_on_where_it_was(tmp_path) -> None:
    whole, halves = layers(), layers()
    take_steps(AdamW(groups(whole), betas=BETAS), whole, range(6))
    first = AdamW(groups(halves), betas=BETAS)
    take_steps(first, halves, range(1))  # before the last layer has moments
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = AdamW(groups(halves), betas=BETAS)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    take_steps(second, halves, range(1, 6))
    for a, b in zip(weights(whole), weights(halves), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_state_of_torchs_adamw_is_understood() -> None:
    ours, theirs = layers(), layers()
    former = torch.optim.AdamW(groups(ours), betas=BETAS, fused=True)
    take_steps(former, ours, range(3))
    latter = AdamW(groups(ours), betas=BETAS)
    latter.load_state_dict(former.state_dict())
    take_steps(latter, ours, range(3, 6))
    take_steps(torch.optim.AdamW(groups(theirs), betas=BETAS, fused=True), theirs, range(6))
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_no_step_waits_for_torchs_compiler_on_a_cpu() -> None:
    program = (
        "import sys, torch, rows; training = rows.run('pca'); training.update(rows.images(), torch.arange(8) % 3); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    folder = Path(__file__).parents[1] / "helpers"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder)
