"""How many images a classifier classifies correctly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.prepared import Split, to_float

BATCH = 256  # images


@torch.inference_mode()
def correct(classify: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> NDArray[np.uint8]:
    """1 for each image of a split whose class has the largest logit, 0 for the others (N,).

    `classify` gives the logits (n, classes) of the images' centres (n, 3, S, S) in [-1, 1].
    """
    batches = []
    for start in range(0, len(split), BATCH):
        images, labels = split.batch(np.arange(start, min(start + BATCH, len(split))), device)
        batches.append((classify(to_float(images)).argmax(1) == labels).cpu().numpy())
    return np.concatenate(batches).astype(np.uint8)
