"""Checkpoints: atomic writes, and reads that execute no code and detect damage."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ldae.runtime.files import atomic_write
from ldae.runtime.progress import log


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values atomically; an `OSError` names the file if the disk is full."""
    with atomic_write(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # torch raises this for a full disk
            raise OSError(f"cannot be written; is the disk full? ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint without executing code from it; raises `ValueError` if the file is damaged.

    A checkpoint is a zip file with checksums. `torch.load` does not verify them and would return damaged weights.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        if any(member.external_attr for member in archive.infolist()):
            raise ValueError("a tensor is marked as a folder")  # torch would return uninitialised memory
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """Reads a checkpoint; returns None, and logs why, if it is damaged or belongs to another run."""
    if not path.exists():
        return None
    try:
        state = load_checkpoint(path, device)
    except Exception as error:  # torch raises a dozen different types for damaged files
        log(f"{path}: cannot be read ({type(error).__name__}); passed over")
        return None
    if state.get("identity") != identity:
        log(f"{path}: is of a run with another specification; passed over")
        return None
    return state
