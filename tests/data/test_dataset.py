from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldae.data.prepared import Order, Split, flip, to_float
from ldae.runtime.randomness import Randomness, stream


@settings(max_examples=50, deadline=None)
@given(num=st.integers(1, 40), batch=st.integers(1, 90), start=st.integers(0, 100))
def test_the_order_depends_on_the_position_alone(num: int, batch: int, start: int) -> None:
    whole = Order(num, seed=1).slice(0, start + batch)
    assert Order(num, seed=1).slice(start, batch).tolist() == whole[start:].tolist()


def test_each_epoch_visits_every_image_once_in_a_new_order() -> None:
    order = Order(50, seed=2)
    first, second = order.slice(0, 50), order.slice(50, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()
    assert Order(50, seed=3).slice(0, 50).tolist() != first.tolist()


def test_streams_of_randomness_differ() -> None:
    keys = [(seed, use, step) for seed in range(3) for use in range(3) for step in range(50)]
    assert len({stream(*key) for key in keys}) == len(keys)


def test_images_are_mapped_and_become_floats(prepared: Path) -> None:
    split = Split.open(prepared / "dataset", "train", seed=0)
    assert isinstance(split.images.rows, np.memmap)
    images, labels = split.batch(np.array([5, 3]), torch.device("cpu"))
    assert images.dtype == torch.uint8
    assert labels.tolist() == [2, 0]
    np.testing.assert_array_equal(images[0], split.images.rows[5])
    values = to_float(torch.tensor([0, 255], dtype=torch.uint8))
    torch.testing.assert_close(values, torch.tensor([-1.0, 1.0]))


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.arange(400 * 12, dtype=torch.int32).view(400, 1, 3, 4)
    flipped = flip(images, Randomness(torch.device("cpu"), 0))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert 160 < int(mirrored.sum()) < 240
