"""What a stage computes on, for the first line of its log; torch only where it is asked about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GPUS = "LDAE_GPUS"  # of each node, that the scale asks for; set for the jobs of the graph
ON_CPU = ("fit-tokenizer", "adopt", "adopt-baseline")  # wherever they run
MIXED = ("pretrain", "pretrain-baseline", "probe", "finetune", "sample", "denoise-validation")
CONVOLUTIONAL = ("train-tokenizer", "train-classifier", "reference", "judge")


def cpu_name() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "CPU"


def described(stage: str, *, processes: int, threads: int) -> Iterator[str]:
    """The device, the processes, the threads and the precision in a line; and a warning where a GPU is missing.

    Args:
        stage: its command.
        processes: that share the work, on all machines.
        threads: of each process.
    """
    if stage == "prepare":
        yield f"on {cpu_name()}: {_counted(threads, 'worker process', 'worker processes')}"
        return
    import torch

    on_gpu = torch.cuda.is_available() and stage not in ON_CPU
    device = torch.cuda.get_device_name() if on_gpu else cpu_name()
    words = [_counted(threads, "thread", "threads")]
    if processes > 1:
        words = [f"{processes} processes{', a GPU each' if on_gpu else ''}", f"{words[0]} each"]
    yield f"on {device}: {', '.join([*words, _precision(stage, on_gpu)])}"
    asked = int(os.environ.get(GPUS) or 0)
    if asked and not on_gpu and stage not in ON_CPU:
        why = "it is built without CUDA" if torch.version.cuda is None else "does nvidia-smi, and is it allocated?"
        yield (
            f"warning: the scale asks for {_counted(asked, 'GPU', 'GPUs')} (resources.gpu), but torch "
            f"{torch.__version__} sees none ({why}); this job computes on the CPU"
        )


def _precision(stage: str, on_gpu: bool) -> str:
    """Of the arithmetic in a stage's inner loop."""
    if stage == "fit-tokenizer":
        return "float64"
    if on_gpu and stage in MIXED:
        return "bfloat16 with float32 weights"
    return "float32, convolutions in TF32" if on_gpu and stage in CONVOLUTIONAL else "float32"


def _counted(num: int, one: str, many: str) -> str:
    return f"{num} {one if num == 1 else many}"
