"""What a stage computes on, for the first line of its log; torch only where it is asked about."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

GPUS = "LDAE_GPUS"  # of each node, that the scale asks for; set for the jobs of the graph
ON_GPU = {"bfloat16": "bfloat16 with float32 weights", "TF32": "float32, convolutions in TF32"}  # elsewhere float32


def cpu_name() -> str:
    """The name of the processor."""
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1].strip() if match else "CPU"


def described_workers(workers: int) -> str:
    """The processor and the number of worker processes, for a stage without torch."""
    return f"on {cpu_name()}: {workers} worker process{'es' * (workers > 1)}"


def described(precision: str, *, needs_gpu: bool, processes: int, threads: int) -> Iterator[str]:
    """The device, the processes, the threads of each and the precision of the inner loop, in one line.

    A second line warns where a GPU is missing.
    """
    import torch

    on_gpu = torch.cuda.is_available() and needs_gpu
    device = torch.cuda.get_device_name() if on_gpu else cpu_name()
    words = [f"{threads} thread{'s' * (threads > 1)}"]
    if processes > 1:
        words = [f"{processes} processes{', a GPU each' if on_gpu else ''}", f"{words[0]} each"]
    words.append(ON_GPU.get(precision, precision) if on_gpu or precision not in ON_GPU else "float32")
    yield f"on {device}: {', '.join(words)}"
    asked = int(os.environ.get(GPUS) or 0)
    if asked and not on_gpu and needs_gpu:
        why = "it is built without CUDA" if torch.version.cuda is None else "does nvidia-smi, and is it allocated?"
        yield (
            f"warning: the scale asks for {asked} GPU{'s' * (asked > 1)} (resources.gpu), but torch "
            f"{torch.__version__} sees none ({why}); this job computes on the CPU"
        )
