"""Checkpoints: written whole, read without executing anything, and refused where damaged or of another run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ldae.runtime.files import atomic_write
from ldae.runtime.progress import log


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain values whole; an `OSError` names the file where the disk has no room for it."""
    with atomic_write(path) as partial:
        try:
            torch.save(state, partial)
        except RuntimeError as error:  # which is what torch makes of a full disk
            raise OSError(f"cannot be written; is the disk full? ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint; nothing in it is executed, and a `ValueError` tells that bits of it have changed.

    It is a zip file with checksums, which torch itself does not look at: it would go on with damaged weights.
    """
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} is damaged")
        if any(member.external_attr for member in archive.infolist()):
            raise ValueError("a tensor is marked as a folder")  # torch would leave its memory as it is found
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def read_state(path: Path, identity: str, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint, or None, said in the log, where it is damaged or of another run."""
    if not path.exists():
        return None
    try:
        state = load_checkpoint(path, device)
    except Exception as error:  # torch names a dozen kinds for a damaged file
        log(f"{path}: cannot be read ({type(error).__name__}); passed over")
        return None
    if state.get("identity") != identity:
        log(f"{path}: is of a run with another specification; passed over")
        return None
    return state
