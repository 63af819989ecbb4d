"""What made a result: its lineage, which decides whether it is still current, and its provenance, which never does."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ldae.process import Rank, process_seconds
from ldae.spec import Part

Lineage = dict[str, dict[str, Any]]  # stage -> what it read of the row and of the scale, and its revision


def lineage(stage: str, spec: Part, revision: int, *inputs: Lineage) -> Lineage:
    """The lineage of a result: those of its inputs, and its own stage."""
    merged: Lineage = {}
    for made in inputs:
        merged |= made
    return merged | {stage: {"revision": revision, "spec": json.loads(spec.to_json())}}


def digest(made: Lineage) -> str:
    """A short name for a lineage: equal for equal ones, and short enough for a command line."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def provenance(device: str, import_seconds: float, **measured: float) -> dict[str, Any]:
    """Where and when a result was made and what it cost.

    Args:
        device: the name of the processor or accelerator that did the work.
        import_seconds: from the start of the process until its work began.
        measured: what the stage has measured itself.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "commit": _commit(),
        "versions": {"python": sys.version.split()[0]} | {name: _version(name) for name in ("torch", "numpy")},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": device,
        "processes": Rank.from_environment().size,  # that shared the work, each with a device of its own
        "started": round(time.time() - process_seconds(), 2),  # seconds since 1970
        "seconds": round(process_seconds(), 2),
        "import_seconds": round(import_seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
    } | {name: round(value, 2) for name, value in measured.items()}


def seconds_of(provenance: dict[str, Any]) -> float:
    """What a job has cost: of a training that took several attempts, all of them."""
    return max(provenance["seconds"], provenance.get("training_seconds", 0.0))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the code that runs, with a `+` when it has been edited since; empty outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
