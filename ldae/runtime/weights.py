"""Files of tensors: those that stages leave for each other, and published ones from elsewhere."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.runtime.files import check_sha256, whole

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # torch writes parts of its messages in bold
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

    They may be kept under one of the names that checkpoints of whole trainings have for them, beside the options of
    that training as an `argparse.Namespace`, as in the files of DiT and MAE.

    Raises:
        ValueError, FileNotFoundError: for a file that is absent, another one, or holds something else than numbers.
    """
    check_sha256(path, sha256)
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # torch raises a dozen kinds of exceptions for files that it did not write
        raise ValueError(f"{path}: {_refusal(error, path.name)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, expected tensors by their names")
    state = next((state[name] for name in NESTED if isinstance(state.get(name), dict)), state)
    tensors: dict[str, Tensor] = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} contains values that are not finite")
    return tensors


def _unpickled(path: Path) -> Any:
    """The content of a file of torch: tensors, plain values and `argparse.Namespace`; nothing else is loaded."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(error: Exception, name: str) -> str:
    """Why torch or safetensors did not load a file, in one line, and what can be done."""
    said = ESCAPE.sub("", str(error))
    if blocked := re.search(r"GLOBAL (\S+) whose module \S+ is blocked", said):
        return f"would call {blocked[1]} when it is loaded, as no file of weights does; nothing in it was executed"
    if other := re.search(r"GLOBAL (\S+) was not an allowed global", said):
        return (
            f"holds {other[1]} beside its tensors, and nothing in it was executed; if you trust its authors, save its "
            f"state dict alone: torch.save(torch.load({name!r}, weights_only=False)['model'], 'weights.pth')"
        )
    cause = re.search(r"WeightsUnpickler error: *(.+)", said)
    first = cause[1] if cause else next(iter(said.splitlines()), "") or "no more is known"
    return f"holds no plain tensors, and nothing in it was executed ({type(error).__name__}: {first})"
