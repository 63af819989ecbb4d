"""Our training step against the same network written plainly: eager attention, an optimizer and an average per tensor.

On a CPU the laptop's network in fp32; on CUDA DiT-L's shape, ours in bf16 with compiled blocks, the plain one in fp32.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.comparison import in_turn, save, seconds
from ldae.parts.denoiser import Denoiser
from ldae.parts.network import TIME_FREQUENCIES, Transformer
from ldae.parts.tokenizers import pca
from ldae.runtime.device import compile_blocks, pick_device
from ldae.runtime.randomness import Randomness
from ldae.stages.pretrain import denoiser_task
from ldae.study.base import PATCH, Size
from ldae.study.cost import transformer_macs
from ldae.study.recipes import Training
from ldae.study.stage_specs import PretrainStage
from ldae.training.loop import TrainingRun
from ldae.training.step import BETAS

SIZES = {
    "cpu": (Size(width=64, heads=4, encoder_blocks=2, decoder_blocks=2), 64, 32),
    "cuda": (
        Size(width=1024, heads=16, encoder_blocks=12, decoder_blocks=12),
        256,
        64,
    ),  # of more, the plain one's fill 80 GB
}  # network, side of the images, batch


def plain_forward(network: Transformer, tokens: Tensor, time: Tensor) -> Tensor:
    """The network's definition, operation by operation."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128, device=tokens.device) / (TIME_FREQUENCIES // 2))
    angles = time[:, None].float() * frequencies
    condition = F.silu(network.time(torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)))
    x = network.embed(tokens) + network.positions
    for block in network.layers:
        shift1, scale1, gate1, shift2, scale2, gate2 = block.modulation(condition).unsqueeze(1).chunk(6, dim=2)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        q, k, v = block.qkv(h).chunk(3, dim=2)
        n, t, width = q.shape
        q, k, v = (each.view(n, t, block.heads, -1).transpose(1, 2) for each in (q, k, v))
        scores = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // block.heads), dim=-1)
        x = x + gate1 * block.proj((scores @ v).transpose(1, 2).reshape(n, t, width))
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        x = x + gate2 * block.fc2(F.gelu(block.fc1(h), approximate="tanh"))
    shift, scale = network.head_modulation(condition).unsqueeze(1).chunk(2, dim=2)
    return network.head(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class PlainStep:
    """Noise prediction on PCA latents, as one would write it down."""

    def __init__(self, denoiser: Denoiser, fitted: dict[str, Tensor]) -> None:
        self.denoiser = denoiser
        device = denoiser.noise.signal.device
        self.mean, self.basis = fitted["mean"].float().to(device), fitted["basis"][: denoiser.dim].float().to(device)
        self.deviation = fitted["variance"][: denoiser.dim].sqrt().float().to(device)
        self.parameters = list(denoiser.network.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1e-4, betas=BETAS, weight_decay=0, foreach=False, fused=False
        )

    def loss(self, images: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """The mean squared error of the predicted noise."""
        n, c, h, w = images.shape
        patches = images.view(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
        clean = (patches.reshape(n, -1, c * PATCH**2) - self.mean) @ self.basis.T / self.deviation
        signal, sigma = (table[time].view(n, 1, 1) for table in (self.denoiser.noise.signal, self.denoiser.noise.noise))
        return (noise - plain_forward(self.denoiser.network, signal * clean + sigma * noise, time)).pow(2).mean()

    def step(self, images: Tensor) -> None:
        """A whole training step."""
        images = images.float() / 127.5 - 1
        mirrored = torch.rand(len(images), device=images.device) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        time = torch.randint(1000, (len(images),), device=images.device)
        noise = torch.randn(len(images), self.denoiser.grid**2, self.denoiser.dim, device=images.device)
        loss = self.loss(images, time, noise)
        self.optimizer.zero_grad()
        loss.backward()
        math.sqrt(sum(parameter.grad.pow(2).sum().item() for parameter in self.parameters))
        self.optimizer.step()
        with torch.no_grad():
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.mul_(0.9999).add_(parameter, alpha=1e-4)


def main() -> None:
    """Checks that both sides compute the same loss, then measures them in turn."""
    torch.set_num_threads(1)
    device = pick_device()
    size, side, batch = SIZES[device.type]
    stage = PretrainStage(size=size, training=Training(steps=10_000, batch=batch, rate=1e-4, warmup=0.1))
    fitted = pca.fit([torch.randn(4000, 768, generator=torch.Generator().manual_seed(0))])
    ours, plain = (Denoiser(stage, fitted, image_size=side, classes=0).to(device) for _ in range(2))
    for parameter in ours.network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    plain.network.load_state_dict(ours.network.state_dict())
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    theirs = PlainStep(plain, fitted)
    draws = ours.draw(batch, Randomness(device, 0))
    floats = images.float() / 127.5 - 1
    with torch.no_grad():
        first, second = ours(floats, labels, draws).mean(), theirs.loss(floats, draws.time, draws.noise)
    tolerance = 1e-4 if device.type == "cpu" else 1e-2  # the weights are drawn anew each time
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
    task = denoiser_task(ours, stage)
    run = TrainingRun(task, title="a step", seed=0, total=10_000, batch=batch, log_every=50, identity="")
    compile_blocks(ours.network.layers, device)
    repetitions = 60 if device.type == "cpu" else 15
    report = in_turn(lambda: run.update(images, labels), lambda: theirs.step(images), repetitions)
    macs = transformer_macs(
        tokens=ours.grid**2,
        width=size.width,
        blocks=size.encoder_blocks + size.decoder_blocks,
        in_dim=ours.dim,
        out_dim=ours.dim,
        conditioning=round(size.width * size.conditioning),
    )
    rate = batch / report["ours_seconds"]
    report |= {"images_per_second": round(rate), "gflop_per_second": round(6 * macs * rate / 1e9, 1)}
    report |= {"gflop_per_second_of_a_matmul": round(matmul_rate(device) / 1e9, 1)}
    save("training_step", {"what": "a training step of the PCA row, ours against a plain one"} | report)


def matmul_rate(device: torch.device) -> float:
    """FLOP a second of a large matrix product in the precision that training uses."""
    n, together = (1024, 1) if device.type == "cpu" else (8192, 20)
    a, b = torch.randn(2, n, n, device=device, dtype=torch.float if device.type == "cpu" else torch.bfloat16)

    def products() -> None:
        for _ in range(together):
            a @ b

    products()
    return 2 * n**3 * together / statistics.median(seconds(products) for _ in range(10))


if __name__ == "__main__":
    main()
