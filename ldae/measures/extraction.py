"""Features of images: batches of windows through every encoder, shared among the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.crops import probe_crop
from ldae.data.prepared import Latents, Split, to_float
from ldae.measures.measure import Encoded
from ldae.runtime import ranks
from ldae.runtime.randomness import Randomness, Stream


class Encoders(NamedTuple):
    """The encoders that a probe compares, and the first step that they share."""

    prepare: Callable[[Tensor, Randomness], Tensor]  # images (n, 3, S, S), or cached latents, to the networks' input
    encode: Callable[[Tensor], Iterable[tuple[str, Tensor]]]  # to names, e.g. "-1" of a block, and tokens (n, T, F)


class Crop(NamedTuple):
    """The window of each image."""

    view: int | None  # the number of an augmentation; None for the centre
    seed: int  # of the augmentation
    device: torch.device


def extract(
    encoders: Encoders,
    split: Split | Latents,
    images: NDArray[np.int64],
    crop: Crop,
    *,
    batch: int,
    tokens: bool = False,
    first: int = 0,
) -> dict[str, Encoded]:
    """The features of some images of a split by each encoder's name; the ranks share the batches.

    The `images` (n,) are numbers in the split, a piece of a pass over it that begins at position `first`; the position
    decides the randomness. With `tokens`, the result has them beside the pooled features.
    """
    randomness = Randomness(crop.device)
    stored: dict[str, Tensor] = {}  # tokens (n, T, F), or features (n, F)
    for turn, start in enumerate(range(0, len(images), batch)):
        is_mine = turn % ranks.size() == ranks.number()
        if not is_mine and turn:  # every rank encodes the first batch, which shows the encoders' names and widths
            continue
        inputs = windows(split, images[start : start + batch], crop, randomness, position=first + start)
        randomness.restart(crop.seed, Stream.CORRUPT, 0 if crop.view is None else crop.view + 1, first + start)
        for name, encoded in encoders.encode(encoders.prepare(inputs, randomness)):
            values = encoded if tokens else encoded.mean(1)
            if name not in stored:
                stored[name] = torch.zeros(len(images), *values.shape[1:], device=crop.device)
            if is_mine:
                stored[name][start : start + len(values)] = values
    whole = {name: ranks.all_reduce_sum(values) for name, values in stored.items()}
    return {name: Encoded(values.mean(1), values) if tokens else Encoded(values) for name, values in whole.items()}


def windows(
    split: Split | Latents, images: NDArray[np.int64], crop: Crop, randomness: Randomness, *, position: int
) -> Tensor:
    """A batch's windows (n, 3, S, S) in [-1, 1], or the latents (n, T, d) of its centres, before standardisation."""
    if isinstance(split, Latents):
        return split.batch(images, crop.device)[0][:, 0].float()  # beside those of the mirror images
    if crop.view is None:
        return to_float(split.batch(images, crop.device)[0])
    randomness.restart(crop.seed, Stream.AUGMENT, crop.view, position)
    return probe_crop(to_float(split.as_stored.batch(images, crop.device)[0]), randomness, size=split.size)
