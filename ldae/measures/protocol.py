"""The probe's protocol (paper, App. A, which follows MAE): batches, held-out images, scores of every measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.prepared import Latents, Split
from ldae.measures.extraction import Crop, Encoders, extract
from ldae.measures.measure import Encoded, Measure, ProbeTask, Result, implementation
from ldae.measures.rates import head_rate
from ldae.runtime.progress import progress
from ldae.runtime.randomness import Stream, stream
from ldae.study.measures import DEFAULT_MEASURES, MEASURES
from ldae.study.recipes import Probing

PART = 2**16  # images whose features are in memory at once when all are scored
TOKEN_PART = 2**10  # the same with their tokens


class Data(NamedTuple):
    """The images of a probe."""

    train: Split
    val: Split
    classes: int
    held_out: Tensor  # (N,) bool, the training images that only choose the learning rate
    device: torch.device
    latents: Latents | None = None  # of the training images' centres, where the tokenizer's fit includes them


def hold_out(groups: NDArray[np.int64], share: float, seed: int) -> Tensor:
    """Marks (N,) the images of a random `share` of the groups, at least one and never all of them.

    Raises:
        ValueError: where all images form a single group.
    """
    num = int(groups.max()) + 1
    if num < 2:
        raise ValueError("probing.held_out: the training images form a single group, so none can be held out")
    chosen = np.random.default_rng(seed).permutation(num)[: min(max(1, round(share * num)), num - 1)]
    return torch.from_numpy(np.isin(groups, chosen))


def evaluate(
    encoders: Encoders,
    data: Data,
    probing: Probing,
    *,
    seed: int,
    title: str,
    measures: Sequence[str] = DEFAULT_MEASURES,
) -> dict[str, dict[str, Result]]:
    """Each measure of each encoder, by the encoder's name and the measure's.

    Held-out training images choose a learning rate; validation images are only reported on.
    """
    with torch.no_grad():  # a measure enables gradients for what it trains
        evaluation = Evaluation(encoders, data, probing, measures, seed)
        evaluation.train(title)
        evaluation.score()
    return {
        encoder: {name: measure.result() for name, measure in of_encoder.items()}
        for encoder, of_encoder in evaluation.measures.items()
    }


class Evaluation:
    """The measures of all encoders on the images of a data set."""

    def __init__(self, encoders: Encoders, data: Data, probing: Probing, names: Sequence[str], seed: int) -> None:
        self.encoders, self.data, self.probing, self.names, self.seed = encoders, data, probing, names, seed
        self.tokens = any(MEASURES[name].needs == "tokens" for name in names)
        self.labels, self.held_out = data.train.labels.to(data.device), data.held_out.to(data.device)
        self.batch = min(probing.batch, len(data.train))
        rates = torch.tensor(probing.rates, device=data.device) * self.batch / 256
        self.task = ProbeTask(data.classes, probing, rates, seed)
        self.measures: dict[str, dict[str, Measure]] = {}  # by the encoder's name and the measure's
        self.cached: list[dict[str, Encoded]] = []  # the training images' features that are computed once

    def train(self, title: str) -> None:
        """Trains every measure on the same batches."""
        with progress(title, self.probing.epochs * (len(self.labels) // self.batch), "steps") as bar:
            self.cached = self._cached()
            for epochs, images, encoded in self._batches():
                share = head_rate(epochs, epochs=self.probing.epochs, warmup=self.probing.warmup)
                fitting = (~self.held_out[images]).nonzero()[:, 0]
                for measure, batch in self._pairs(encoded):
                    measure.step(batch, self.labels[images], fitting, share)
                bar.advance(1)

    def score(self) -> None:
        """Shows the centre crops of the validation images and then of the training images to every measure."""
        labels = self.data.val.labels.to(self.data.device)
        for part, encoded in self._parts(self.data.val):
            for measure, images in self._pairs(encoded):
                measure.validate(images, labels[part])
        centres = self.cached[0] if self.probing.centres_alone else None
        for part, encoded in self._parts(self.data.latents or self.data.train, centres):
            for measure, images in self._pairs(encoded):
                measure.update(images, self.labels[part], self.held_out[part])

    def _pairs(self, encoded: dict[str, Encoded]) -> Iterator[tuple[Measure, Encoded]]:
        """The measures of each encoder with what it makes of some images."""
        for encoder, images in encoded.items():
            if encoder not in self.measures:
                self.measures[encoder] = {name: implementation(name)(self.task, images) for name in self.names}
            for measure in self.measures[encoder].values():
                yield measure, images

    def _cached(self) -> list[dict[str, Encoded]]:
        """The features of each augmentation of the training images, or of their centre crops; none in exact mode."""
        if self.probing.mode == "exact":
            return []
        images = np.arange(len(self.data.train))
        if self.probing.centres_alone:
            return [self._extract(self.data.latents or self.data.train, images)]
        return [self._extract(self.data.train, images, view=view) for view in range(self.probing.views)]

    def _batches(self) -> Iterator[tuple[float, Tensor, dict[str, Encoded]]]:
        """For each step: the epochs before it, the training images (n,) of the batch, and their features.

        Epochs take the cached features in turn. In exact mode each epoch has a new augmentation, whose features are
        computed batch by batch: ImageNet's would not fit, as seven blocks are 37 GB at width 1024.
        """
        num, device = len(self.data.train), self.data.device
        for epoch in range(self.probing.epochs):
            generator = torch.Generator(device).manual_seed(stream(self.seed, Stream.SHUFFLE, epoch))
            order = torch.randperm(num, generator=generator, device=device)
            for start in range(0, num - self.batch + 1, self.batch):
                images = order[start : start + self.batch]
                if self.cached:
                    cached = self.cached[epoch % len(self.cached)]
                    encoded = {name: values.take(images) for name, values in cached.items()}
                else:
                    encoded = self._extract(self.data.train, images.cpu().numpy(), view=epoch, first=start)
                yield epoch + start / num, images, encoded

    def _parts(
        self, split: Split | Latents, cached: dict[str, Encoded] | None = None
    ) -> Iterator[tuple[slice, dict[str, Encoded]]]:
        """The centre crops of a split, part by part, from the cache where there is one."""
        batch = self.probing.extract_batch
        size = -(-(TOKEN_PART if self.tokens else PART) // batch) * batch  # whole batches
        for start in range(0, len(split), size):
            part = slice(start, min(start + size, len(split)))
            if cached is None:
                yield part, self._extract(split, np.arange(part.start, part.stop), first=start)
            else:
                yield part, {name: values.take(part) for name, values in cached.items()}

    def _extract(
        self, split: Split | Latents, images: NDArray[np.int64], *, view: int | None = None, first: int = 0
    ) -> dict[str, Encoded]:
        crop, batch = Crop(view, self.seed, self.data.device), self.probing.extract_batch
        return extract(self.encoders, split, images, crop, batch=batch, tokens=self.tokens, first=first)
