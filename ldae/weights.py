"""Files of tensors: those that stages leave for each other, and published ones from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.files import sha256 as digest
from ldae.files import whole

NESTED = ("ema", "model", "state_dict")  # under which a file keeps its weights; of DiT's the averaged ones come first


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors on any device as a safetensors file, whole; an `OSError` names it where the disk is full."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as partial:
        try:
            save_file(plain, partial)
        except SafetensorError as error:  # which is what it makes of a full disk
            raise OSError(f"cannot be written ({error})") from None


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or torch file, once its SHA-256 is the expected one; nothing in it is executed.

    They may be kept under one of the names that checkpoints of whole trainings have for them.

    Raises:
        ValueError, FileNotFoundError: for a file that is absent, another one, or holds something else than numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is absent; a file of sha256 {sha256} is needed here, and nothing replaces it")
    if (found := digest(path)) != sha256.lower():
        raise ValueError(f"{path}: has sha256 {found}, expected {sha256}")
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch names a dozen kinds for a file that is none of its own
        kind = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is known'}"
        raise ValueError(f"{path}: holds no plain tensors, and nothing in it was executed ({kind})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, expected tensors by their names")
    state = next((state[name] for name in NESTED if isinstance(state.get(name), dict)), state)
    tensors: dict[str, Tensor] = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are no finite numbers")
    return tensors
