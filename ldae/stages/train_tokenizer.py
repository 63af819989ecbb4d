"""Stage: trains a convolutional tokenizer, VAE or VQGAN, and caches the latents of the training set.

The loss is latent diffusion's (its `contperceptual`): squared error and perceptual distance summed over all elements, a
little KL divergence, and from some step on a discriminator whose gradient is made half as long as the rest's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ldae.data.prepared import Split, flip, to_float
from ldae.measures.reconstruction import collapsed, psnr
from ldae.parts.classifiers import SmallVGG
from ldae.parts.loading import open_classifier, published_weights
from ldae.parts.published import from_stable_diffusion
from ldae.parts.tokenizers.conv import Autoencoder, ConvTokenizer, Residual
from ldae.parts.tokenizers.losses import (
    PatchDiscriminator,
    Perceptual,
    adaptive_weight,
    generator_loss,
    hinge_loss,
    kl_divergence,
    lpips_weights,
    vgg16_features,
)
from ldae.parts.tokenizers.pixel import fit as fit_moments
from ldae.runtime import ranks
from ldae.runtime.arrays import new_array, release_pages, save_row_checksums
from ldae.runtime.device import pick_device, recompute_activations
from ldae.runtime.files import atomic_write
from ldae.runtime.progress import progress
from ldae.runtime.randomness import Randomness, Stream, stream
from ldae.runtime.weights import save_weights
from ldae.study.base import PATCH
from ldae.study.record import Options, origin_of
from ldae.study.results import Manifest
from ldae.study.stage_specs import ConvolutionalStage
from ldae.training.loop import TrainingResult, trained
from ldae.training.step import AdamW, learning_rate, set_rate

BETAS = (0.5, 0.9)  # of Adam, for both networks (latent diffusion)
WARMUP = 0.05
BATCH = 100  # images in encoding


class AutoencoderTask:
    """An autoencoder, the discriminator that it plays against, and their optimizers."""

    def __init__(self, autoencoder: Autoencoder, stage: ConvolutionalStage, perceptual: Perceptual | None) -> None:
        """Prepares them; `perceptual` is the frozen distance, for a tokenizer with that loss."""
        self.autoencoder, self.recipe, self.perceptual = autoencoder, stage.convolutional, perceptual
        self.discriminator = PatchDiscriminator(self.recipe.discriminator_width) if stage.adversarial else None
        networks: dict[str, nn.Module] = {"autoencoder": autoencoder}
        if self.discriminator is not None:
            networks["discriminator"] = self.discriminator.to(next(autoencoder.parameters()).device)
        self.module = nn.ModuleDict(networks)
        self.optimizers = [AdamW([{"params": network.parameters()}], betas=BETAS) for network in networks.values()]

    def update(
        self, inputs: Tensor, labels: Tensor, randomness: Randomness, *, step: int, total: int
    ) -> dict[str, Tensor | float]:
        """One step of both networks on uint8 images (N, 3, S, S); labels are ignored."""
        images = to_float(flip(inputs, randomness))
        rate = learning_rate(step, total=total, peak=self.recipe.rate, warmup=WARMUP)
        for optimizer in self.optimizers:
            set_rate(optimizer, rate)
        mean, logvar = self.autoencoder.posterior(images)
        noise = randomness.normal(*mean.shape)
        decoded = self.autoencoder.decode(mean + (0.5 * logvar).exp() * noise)
        squared = (decoded - images).square()
        metrics: dict[str, Tensor | float] = {"reconstruction": squared.mean().detach()}
        nll = squared.flatten(1).sum(1)  # (N,), as latent diffusion calls it
        if self.perceptual is not None:
            distance = self.perceptual(decoded, images)
            metrics["perceptual"] = distance.mean().detach()
            nll = nll + self.recipe.perceptual_weight * distance * images[0].numel()  # once for every element
        nll = nll.mean()
        kl = kl_divergence(mean, logvar).mean()
        loss = nll + self.recipe.kl * kl
        metrics["kl"] = kl.detach()
        surrogate = loss  # has the gradient of the loss
        opponent = self.discriminator if step >= self.recipe.adversarial_start * total else None
        if opponent is not None:
            opponent.requires_grad_(False)  # its own step follows
            generator = generator_loss(opponent(decoded))
            opponent.requires_grad_(True)
            # Both losses need their gradient twice, for the adaptive weight and for the step. Their gradients with
            # respect to the decoded images are computed once; the inner products below have the same gradients.
            gradients = [torch.autograd.grad(term, decoded)[0] for term in (nll, generator)]
            nll, generator_part = ((gradient * decoded).sum() for gradient in gradients)
            last_layer = self.autoencoder.decoder.conv_out.weight
            weight = self.recipe.adversarial_weight * adaptive_weight(nll, generator_part, last_layer)
            loss = loss + weight * generator
            surrogate = nll + weight * generator_part + self.recipe.kl * kl
        self._descend(0, surrogate, self.autoencoder)
        if self.discriminator is not None:
            metrics["discriminator"] = torch.zeros((), device=images.device)  # before it plays
        if opponent is not None:
            hinge = hinge_loss(opponent(images), opponent(decoded.detach()))
            self._descend(1, hinge, opponent)
            metrics["discriminator"] = hinge.detach()
        return {"loss": loss.detach() / images[0].numel()} | metrics | {"rate": rate}

    def _descend(self, number: int, loss: Tensor, network: nn.Module) -> None:
        """Takes a step of one of the optimizers, on the mean gradient of all ranks."""
        self.optimizers[number].zero_grad()
        loss.backward()
        ranks.average_gradients(network.parameters())
        self.optimizers[number].step()


def perceptual_distance(stage: ConvolutionalStage, vgg: Path | None) -> Perceptual | None:
    """The distance of a tokenizer's perceptual loss, or None; `vgg` is the folder of the study's own network.

    Raises:
        ValueError, OSError: for weights that are absent or not the expected ones.
    """
    if not stage.perceptual:
        return None
    recipe = stage.convolutional
    weights = published_weights(recipe.lpips, lpips_weights) if recipe.lpips else []
    if recipe.perceptual != "builtin":
        return Perceptual(published_weights(recipe.perceptual, vgg16_features), weights)
    if vgg is None:
        raise ValueError("a perceptual loss with convolutional.perceptual 'builtin' needs --vgg, the trained network")
    if weights:
        raise ValueError("convolutional.lpips: fits VGG16's channels alone, and convolutional.perceptual is 'builtin'")
    network, record = open_classifier(vgg)
    if not isinstance(network, SmallVGG):
        raise ValueError(f"{vgg}: is a {record.architecture}; the perceptual loss wants the vgg")
    return Perceptual(network.stages)


def encoded(tokenizer: ConvTokenizer, train: Split, cache: np.ndarray, device: torch.device) -> Iterator[Tensor]:
    """Fills the cache (N, 2, T, d) with latents of the training images and their mirror images, batch by batch."""
    with progress("caching latents", len(train), "images") as bar, torch.inference_mode():
        for start in range(0, len(train), BATCH):
            indices = np.arange(start, min(start + BATCH, len(train)))
            images = to_float(train.batch(indices, device)[0])
            both = torch.stack([tokenizer.raw(images), tokenizer.raw(images.flip(-1))], dim=1).cpu()
            cache[start : start + len(indices)] = both.half().numpy()
            release_pages(cache)
            yield both.flatten(0, 2)
            bar.advance(len(indices))


def train_tokenizer(stage: ConvolutionalStage, **options: Unpack[Options]) -> None:
    """Trains a tokenizer, or takes published weights, and caches the latents of the training images.

    It writes `tokenizer.safetensors`, `latents.npy`, `history.csv` and `tokenizer.json` into `out`.
    """
    device, dataset, vgg, out = pick_device(), options["dataset"], options.get("vgg"), options["out"]
    seed = options["seed"]
    size, recipe, origin = (
        Manifest.read(dataset / "manifest.json").size,
        stage.convolutional,
        origin_of("tokenizer", stage, options),
    )
    train, val = Split.open(dataset, "train", seed), Split.open(dataset, "val", seed)

    def start() -> AutoencoderTask:
        perceptual = perceptual_distance(stage, vgg)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, Stream.INITIAL))
            autoencoder = Autoencoder(width=recipe.width, blocks=recipe.blocks, channels=stage.dim // 4).to(device)
            if options.get("recompute"):
                recompute_activations(part for part in autoencoder.modules() if isinstance(part, Residual))
            return AutoencoderTask(autoencoder, stage, perceptual.to(device) if perceptual else None)

    def write(result: TrainingResult) -> None:
        blank = {"mean": torch.zeros(stage.dim), "variance": torch.ones(stage.dim)}
        weights = result.weights["autoencoder"]
        fitted = {f"autoencoder.{name}": tensor.cpu().contiguous() for name, tensor in weights.items()}
        tokenizer = ConvTokenizer(fitted | blank, dim=stage.dim, scale="global").to(device)
        with atomic_write(out / "latents.npy") as partial:
            cache = new_array(partial, np.float16, (len(train), 2, (size // PATCH) ** 2, stage.dim))
            fitted |= fit_moments(encoded(tokenizer, train, cache, device))
            cache.flush()
        save_row_checksums(out / "latents.npy")
        save_weights(out / "tokenizer.safetensors", fitted)
        tokenizer = ConvTokenizer(fitted, dim=stage.dim, scale="global").to(device)
        features = "builtin" if stage.needs_vgg else "VGG16"
        about = {
            "seed": seed,
            "kind": stage.tokenizer.kind,
            "dims": stage.dim,
            "collapsed_dims": collapsed(fitted["variance"], has_prior=True),
            "psnr": {stage.dim: round(psnr(tokenizer, val, device), 3)},
            "posterior_noise": round(posterior_noise(tokenizer, val, fitted["variance"], device), 6),
            "perceptual": features if stage.perceptual and not stage.is_published else None,
        }
        result.write_record(out / "tokenizer.json", about | origin, "tokenizer.safetensors")

    if stage.is_published and recipe.published is not None:
        if not ranks.number():
            weights = published_weights(recipe.published, from_stable_diffusion)
            write(TrainingResult({"autoencoder": weights}, history=["step,images"], seconds=0.0))
        return
    name = stage.tokenizer.name
    with trained(start, train, recipe, options, origin, title=name, seed=seed, steps=recipe.steps) as result:
        if result is not None:
            write(result)


@torch.inference_mode()
def posterior_noise(tokenizer: ConvTokenizer, val: Split, variance: Tensor, device: torch.device) -> float:
    """The variance of the posterior's own noise as a share of the latents', which rows leave out by taking the mean."""
    images = to_float(val.batch(np.arange(min(BATCH, len(val))), device)[0])
    _, logvar = tokenizer.autoencoder.posterior(images)
    return float(logvar.exp().mean().cpu() / variance.mean())
