"""What every benchmark shares: two sides measured in turn in one process, because only their ratio means anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ldae.runtime.device import device_name, pick_device
from ldae.runtime.files import write_json

RESULTS = Path(__file__).parent / "results"


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes, with all that it has started on an accelerator."""
    start = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], repetitions: int) -> dict[str, Any]:
    """The median seconds of both, and the quartiles of their ratio over the repetitions (theirs / ours)."""
    ours(), theirs()  # warm up
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repetitions)]
    low, ratio, high = statistics.quantiles([theirs / ours for ours, theirs in pairs], n=4)
    return {
        "ours_seconds": statistics.median(pair[0] for pair in pairs),
        "theirs_seconds": statistics.median(pair[1] for pair in pairs),
        "times_faster": round(ratio, 2),
        "quartiles": [round(low, 2), round(high, 2)],
    }


def save(name: str, report: dict[str, Any]) -> None:
    """Prints a report, and keeps it with the device named."""
    device = pick_device()
    about = {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json(RESULTS / f"{name}-{device.type}.json", report | about)
    for key, value in (report | about).items():
        print(f"{key}: {value}")
