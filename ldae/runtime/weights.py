"""Files of tensors: the weights that stages exchange, and published weights."""

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

from ldae.runtime.files import atomic_write, check_sha256

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # torch prints parts of its messages in bold
NESTED = ("ema", "model", "state_dict")  # keys of the weights in a checkpoint; for DiT, the averaged ones come first


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors from any device to a safetensors file, atomically; an `OSError` names it if the disk is full."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        try:
            save_file(plain, partial)
        except SafetensorError as error:  # raised for a full disk
            raise OSError(f"cannot be written ({error})") from None


def read_weights(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file with the expected SHA-256; nothing in the file is executed.

    Like the files of DiT and MAE, it may be a training checkpoint with the weights under one of `NESTED` and options in
    an `argparse.Namespace`. A `ValueError` says that it has another SHA-256 or contains other objects.
    """
    check_sha256(path, sha256)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds of exceptions for files that it did not write
        raise ValueError(f"{path}: {_refusal(error, path.name)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: contains a {type(state).__name__}, expected a mapping of names to tensors")
    state = next((state[name] for name in NESTED if isinstance(state.get(name), dict)), state)
    tensors: dict[str, Tensor] = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} contains values that are not finite")
    return tensors


def _refusal(error: Exception, name: str) -> str:
    """One line on why PyTorch or safetensors did not load a file, and what to do."""
    message = ESCAPE.sub("", str(error))
    if blocked := re.search(r"GLOBAL (\S+) whose module \S+ is blocked", message):
        return f"would call {blocked[1]} when it is loaded, which no file of weights does; nothing in it was executed"
    if foreign := re.search(r"GLOBAL (\S+) was not an allowed global", message):
        return (
            f"contains {foreign[1]} in addition to tensors; nothing in it was executed. If you trust its authors, "
            f"save only its state dict: torch.save(torch.load({name!r}, weights_only=False)['model'], 'weights.pth')"
        )
    cause = re.search(r"WeightsUnpickler error: *(.+)", message)
    first = cause[1] if cause else next(iter(message.splitlines()), "") or "no details"
    return f"contains no plain tensors; nothing in it was executed ({type(error).__name__}: {first})"
