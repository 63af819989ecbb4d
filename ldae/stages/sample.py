"""Stage: samples images from a trained row, through the diffusion process of its noise schedule (paper, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from ldae.data.prepared import Split, to_uint8
from ldae.parts.denoiser import Denoiser
from ldae.parts.diffusion import Process, sample_latents
from ldae.parts.loading import open_denoiser, open_run
from ldae.parts.noise import Level
from ldae.runtime import ranks
from ldae.runtime.arrays import new_array, release_pages, save_array
from ldae.runtime.device import compile_blocks, device_name, pick_device
from ldae.runtime.files import atomic_write
from ldae.runtime.progress import progress
from ldae.runtime.randomness import Stream, stream
from ldae.study.record import Options, origin_of, write_record
from ldae.study.results import Manifest
from ldae.study.scale import Sampling
from ldae.study.stage_specs import SampleStage

EXAMPLES = 8  # samples that a figure shows


@torch.inference_mode()
def draw(denoiser: Denoiser, sampling: Sampling, process: Process, labels: Tensor, *, seed: int, start: int) -> Tensor:
    """A batch of samples (n, 3, S, S), uint8, of labels (n,), which a network without labels ignores.

    They are the samples from number `start` on of the run with this seed.
    """
    generator = torch.Generator(labels.device).manual_seed(stream(seed, Stream.SAMPLES, start))
    shape = (len(labels), denoiser.grid**2, denoiser.dim)
    noise = torch.randn(shape, generator=generator, device=labels.device)

    def predict(noisy: Tensor, time: Tensor, level: Level) -> Tensor:
        return denoiser.predict_clean(noisy, time, labels, level)

    latents = sample_latents(predict, process, noise, method=sampling.method, generator=generator)
    return to_uint8(denoiser.tokenizer.decode(latents))


def sample(stage: SampleStage, **options: Unpack[Options]) -> None:
    """Writes `samples.npy` (N, 3, S, S), uint8, the first of them as `examples.npy`, and `samples.json` into `out`.

    Labels are drawn as often as the training set has them.

    Raises:
        ValueError: for a row whose schedule defines no diffusion process.
    """
    sampling, device, row, out = stage.sampling, pick_device(), options["row"], options["out"]
    origin, manifest = origin_of("sample", stage, options), Manifest.read(options["dataset"] / "manifest.json")
    run = open_run(options["model"], "ema")
    process = Process.of(run.stage.noise, sampling.steps)
    denoiser = open_denoiser(options["model"], options["tokenizer"], manifest, weights="ema").to(device)
    compile_blocks(denoiser.network.layers, device)
    classes = len(manifest.classes)
    if denoiser.network.classes not in (0, classes):
        raise ValueError(
            f"{row}: its network knows {denoiser.network.classes} classes, the data set has {classes}; published "
            "weights are sampled from with the classes that they were trained with"
        )
    known = Split.open(options["dataset"], "train", run.seed).labels
    chosen = np.random.default_rng([run.seed, Stream.SAMPLES]).integers(len(known), size=sampling.num)
    labels = known[torch.from_numpy(chosen)].to(device)

    def batches() -> Iterator[np.ndarray]:
        """The samples in order; of as many batches as there are ranks, each draws one."""
        with progress(f"sampling {row}", sampling.num, "images") as bar:
            for start in range(0, sampling.num, sampling.batch * ranks.size()):
                together = labels[start : start + sampling.batch * ranks.size()]
                drawn = torch.zeros(len(together), 3, *[manifest.size] * 2, dtype=torch.uint8, device=device)
                first = ranks.number() * sampling.batch
                if len(own := together[first : first + sampling.batch]):
                    part = draw(denoiser, sampling, process, own, seed=run.seed, start=start + first)
                    drawn[first : first + len(own)] = part
                yield ranks.all_reduce_sum(drawn).cpu().numpy()
                bar.advance(len(together))

    if ranks.number():
        for _ in batches():
            pass
        return
    with atomic_write(out / "samples.npy") as partial:
        shape = (sampling.num, 3, manifest.size, manifest.size)
        samples = new_array(partial, np.uint8, shape)
        done = 0
        for drawn in batches():
            samples[done : done + len(drawn)] = drawn
            done += len(drawn)
            release_pages(samples)
        examples = samples[:EXAMPLES].copy()
        samples.flush()
    save_array(out / "examples.npy", examples)
    about = {"row": row, "seed": run.seed} | origin
    write_record(out / "samples.json", about, [out / "samples.npy", out / "examples.npy"], device=device_name(device))
