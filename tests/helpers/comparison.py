"""Whether two trainings, by whatever number of processes, are the same but for rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


def equal(first: Path, second: Path, *, names: tuple[str, ...]) -> None:
    """Weights to 1e-5, and histories to as many digits as they have."""
    for name in names:
        one, other = load_file(first / f"{name}.safetensors"), load_file(second / f"{name}.safetensors")
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            # softmax does not see a key's bias: its gradient is rounding alone, which Adam makes as large as any other
            if key.endswith(".k.bias"):
                continue
            if key.endswith("qkv.bias"):
                for weights in (tensor, other[key]):
                    weights.view(3, -1)[1] = 0
            torch.testing.assert_close(other[key], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    histories = [np.genfromtxt(folder / "history.csv", delimiter=",", names=True) for folder in (first, second)]
    for column in histories[0].dtype.names:
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=2e-4, err_msg=column)
