"""The first line of a job's log, and the warning beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from forked import forked

from ldae.runtime.machine import GPUS, cpu_name, described

CPU = re.escape(cpu_name())


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["fit-tokenizer", "--spec", '{"fitting":{"patches":100}}'], f"on {CPU}: 2 threads, float64"),
        (["probe-pixels", "--spec", '{"probing":{"mode":"cached","rates":[1]}}'], f"on {CPU}: 2 threads, float32"),
        (["prepare", "--spec", '{"dataset":{"source":"folder","path":"none","size":32}}'], "2 worker processes"),
    ],
)
def test_a_log_begins_with_the_device_the_threads_and_the_precision(
    command: list[str], words: str, prepared: Path, tmp_path: Path
) -> None:
    (tmp_path / "dataset").mkdir()
    shutil.copy(prepared / "dataset/manifest.json", tmp_path / "dataset")  # without images, so that the job ends soon
    folders = [] if command[0] == "prepare" else ["--dataset", str(tmp_path / "dataset")]
    said = forked(*command, *folders, "--out", str(tmp_path / "out"), "--threads", "2")
    assert re.search(words, said.stderr.splitlines()[0])
    assert "warning" not in said.stderr


def test_a_gpu_and_its_precision_are_named(on_a_gpu: None) -> None:
    gpu = "NVIDIA H100 80GB HBM3"
    assert list(described("bfloat16", needs_gpu=True, processes=1, threads=16)) == [
        f"on {gpu}: 16 threads, bfloat16 with float32 weights"
    ]
    assert list(described("float64", needs_gpu=False, processes=1, threads=1)) == [
        f"on {cpu_name()}: 1 thread, float64"
    ]
    (line,) = described("TF32", needs_gpu=True, processes=8, threads=2)
    assert line == f"on {gpu}: 8 processes, a GPU each, 2 threads each, float32, convolutions in TF32"


def test_a_job_that_should_have_a_gpu_and_has_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS, "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first, warning = described("bfloat16", needs_gpu=True, processes=1, threads=1)
    assert first.endswith(": 1 thread, float32")
    assert warning.startswith("warning: the scale asks for 2 GPUs (resources.gpu), but torch ")
    assert "computes on the CPU" in warning
    assert len(list(described("float64", needs_gpu=False, processes=1, threads=1))) == 1  # which needs none
    monkeypatch.setenv(GPUS, "0")
    assert len(list(described("bfloat16", needs_gpu=True, processes=1, threads=1))) == 1
