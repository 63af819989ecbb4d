"""Trainings by several processes against the same training by one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from comparison import equal
from forked import Forked
from manifests import images_of
from torch import Tensor

from ldae.data.prepared import to_float
from ldae.parts.loading import open_baseline
from ldae.runtime import ranks
from ldae.runtime.files import read_json
from ldae.runtime.launch import _free_port
from ldae.runtime.locking import sole_holder
from ldae.runtime.process import Rank
from ldae.runtime.randomness import Randomness
from ldae.runtime.ranks import first_host
from ldae.stages.finetune import finetune
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe
from ldae.stages.sample import sample
from ldae.stages.train_tokenizer import train_tokenizer
from ldae.study.base import Size
from ldae.study.methods import MAETraining, MoCoTraining
from ldae.study.recipes import Finetuning, Probing, Training
from ldae.study.scale import Convolutional, Sampling
from ldae.study.spec import Network, Objective, Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ConvolutionalStage,
    FinetuneStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
)
from ldae.training.loop import TrainingRun

SIZE = Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1)
TRAINING = Training(steps=6, batch=16, rate=0.02, warmup=0.1, log_every=2)
TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"}
CONV = Convolutional(width=8, blocks=1, steps=6, batch=8, rate=1e-3, discriminator_width=4, log_every=2)


def in_group(size: int, folder: Path, work: Callable[[], None]) -> None:
    """Does work in `size` processes of one group, and fails when it fails in any of them."""
    store = folder / f"store{size}"
    store.parent.mkdir(parents=True, exist_ok=True)
    store.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")  # torch is imported already
    processes = [context.Process(target=_member, args=(number, size, store, work)) for number in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * size


def _member(number: int, size: int, store: Path, work: Callable[[], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=size)
    work()
    dist.destroy_process_group()


ROWS: dict[str, dict[str, Any]] = {
    "noise": {"tokenizer": Tokenizer(dim=8)},
    "labels": {"tokenizer": Tokenizer(dim=8), "network": Network(labels=True)},
    "image": {
        "tokenizer": Tokenizer(dim=8),
        "network": Network(input="image", output="image"),
        "objective": Objective(predict="clean", weight="signal", tail=0.1),
    },
}


def train_row(prepared: Path, folder: Path, *, micro_batch: int | None = None, **parts: Any) -> None:
    pretrain(
        PretrainStage(size=SIZE, training=TRAINING, **parts),
        row="tiny",
        seed=0,
        revision=1,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        resume=folder / "resume",
        out=folder / "out",
        micro_batch=micro_batch,
        checkpoint_seconds=0,
    )


@pytest.mark.parametrize(("row", "size"), [("noise", 2), ("labels", 4), ("image", 2)])
def test_a_row_trained_by_several_is_the_row_trained_by_one(
    row: str, size: int, prepared: Path, tmp_path: Path
) -> None:
    train_row(prepared, tmp_path / "1", **ROWS[row])
    in_group(size, tmp_path / "n", lambda: train_row(prepared, tmp_path / "n", **ROWS[row]))
    equal(tmp_path / "1/out", tmp_path / "n/out", names=("model", "ema"))


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process leaves of a row."""
    folder = tmp_path_factory.mktemp("alone")
    train_row(prepared, folder, **ROWS["noise"])
    return folder / "out"


def test_gradients_of_several_forward_passes_are_added_before_they_are_averaged(
    alone: Path, prepared: Path, tmp_path: Path
) -> None:
    in_group(2, tmp_path, lambda: train_row(prepared, tmp_path, micro_batch=3, **ROWS["noise"]))
    equal(alone, tmp_path / "out", names=("model",))


def stop_after(steps: int) -> None:
    """Lets this process take so many more steps."""
    update, left = TrainingRun.update, iter(range(steps))

    def stopping(self: TrainingRun, *arguments: Any) -> Any:
        if next(left, None) is None:
            os._exit(0)
        return update(self, *arguments)

    TrainingRun.update = stopping  # type: ignore[method-assign]


def test_a_run_goes_on_with_another_number_of_ranks(alone: Path, prepared: Path, tmp_path: Path) -> None:
    def some_steps(steps: int) -> None:
        stop_after(steps)
        train_row(prepared, tmp_path / "n", **ROWS["noise"])

    in_group(4, tmp_path / "n", lambda: some_steps(3))
    assert (tmp_path / "n/resume/checkpoint.pt").exists()
    in_group(2, tmp_path / "n", lambda: some_steps(3))
    train_row(prepared, tmp_path / "n", **ROWS["noise"])
    equal(alone, tmp_path / "n/out", names=("model", "ema"))


@pytest.mark.parametrize("method", ["mae", "moco_v3"])
def test_a_baseline_trained_by_several_is_the_one_trained_by_one(method: str, prepared: Path, tmp_path: Path) -> None:
    recipe = {
        "mae": MAETraining(**TRAINING.model_dump(), decoder_width=16, decoder_heads=2, decoder_blocks=1),
        "moco_v3": MoCoTraining(**TRAINING.model_dump(), hidden=16, out=8),
    }[method]
    stage = BaselineStage(size=SIZE, **{method: recipe})

    def train(folder: Path) -> None:
        folders = {"dataset": prepared / "dataset", "resume": folder / "resume", "out": folder / "out"}
        pretrain(stage, row=method, seed=0, revision=1, **folders)

    def features(folder: Path) -> Tensor:
        """Less their mean, which MoCo's batch norm takes away: nothing says what it should be."""
        images = to_float(torch.from_numpy(images_of(prepared / "dataset", "val")))
        encoded = open_baseline(folder / "out", 32)(images).mean(1)
        return encoded - encoded.mean(0)

    train(tmp_path / "1")
    in_group(2, tmp_path / "2", lambda: train(tmp_path / "2"))
    equal(tmp_path / "1/out", tmp_path / "2/out", names=())
    torch.testing.assert_close(features(tmp_path / "2"), features(tmp_path / "1"), rtol=1e-4, atol=1e-5)


def test_a_tokenizer_trained_by_several_is_the_one_trained_by_one(prepared: Path, tmp_path: Path) -> None:
    stage = ConvolutionalStage(dim=16, adversarial=True, convolutional=CONV)

    def train(folder: Path) -> None:
        folders = {"dataset": prepared / "dataset", "resume": folder / "resume", "out": folder / "out"}
        train_tokenizer(stage, seed=0, revision=1, **folders)

    train(tmp_path / "1")
    in_group(2, tmp_path / "2", lambda: train(tmp_path / "2"))
    equal(tmp_path / "1/out", tmp_path / "2/out", names=("tokenizer",))


def test_a_batch_that_cannot_be_divided_is_refused_with_those_that_could(prepared: Path, tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(ValueError, match="batch: 16 images cannot be divided among 3 processes; 15 or 18 could"):
            train_row(prepared, tmp_path / "3", **ROWS["noise"])

    in_group(3, tmp_path / "3", refused)


@pytest.mark.parametrize("size", [2, 4])
def test_the_norm_over_a_group_is_the_norm_of_the_whole_batch(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    values, weights = torch.randn(8, 3, 5), torch.randn(8, 3, 5)
    whole = torch.nn.BatchNorm1d(3)
    inputs = values.clone().requires_grad_()
    (whole(inputs) * weights).mean().backward()

    def check() -> None:
        norm, part = ranks.BatchNorm(3), slice(8 // size * ranks.number(), 8 // size * (ranks.number() + 1))
        own = values[part].clone().requires_grad_()
        (norm(own) * weights[part]).mean().backward()
        ranks.average_gradients(norm.parameters())
        assert inputs.grad is not None and own.grad is not None and whole.weight.grad is not None
        torch.testing.assert_close(own.grad / size, inputs.grad[part])  # of the mean over the parts
        torch.testing.assert_close(norm.weight.grad, whole.weight.grad)
        torch.testing.assert_close(norm.running_mean, whole.running_mean)
        torch.testing.assert_close(norm.running_var, whole.running_var)

    in_group(size, tmp_path, check)


def test_a_part_of_a_batch_has_its_own_part_of_the_randomness() -> None:
    def drawn(part: int, parts: int) -> tuple[Tensor, ...]:
        source = Randomness(torch.device("cpu"), 5, part=part, parts=parts)
        num = 8 // parts
        return source.uniform(3, num, batch=1), source.normal(num, 2).T, source.integers(1000, num)[None]

    for whole, *parts in zip(drawn(0, 1), drawn(0, 2), drawn(1, 2), strict=True):
        assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Rank(0, 1, 0)),
        (TORCH | {"LDAE_LAUNCHER": f"process {os.getppid()}"}, Rank(3, 4, 1)),
        (TORCH | TORCHRUN, Rank(3, 4, 1)),
        (STEP | {"LDAE_LAUNCHER": "job 7"}, Rank(5, 8, 1)),
        (STEP | TORCH | {"LDAE_LAUNCHER": "job 7"}, Rank(5, 8, 1)),
    ],
)
def test_a_rank_that_was_started_as_one_knows_its_number(
    variables: dict[str, str], expected: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnumbered(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Rank.from_environment() == expected


@pytest.mark.parametrize(
    "variables",
    [
        STEP,  # a shell of `srun -n 8 --pty bash`, or of `salloc -n 8`
        TORCH,  # Kubernetes, SageMaker, a notebook of a distributed pod
        TORCH | {"MASTER_ADDR": "pod-0", "MASTER_PORT": "29500"},
        STEP | TORCH | {"LDAE_LAUNCHER": "job 6"},  # left from another job
        STEP | TORCH | {"LDAE_LAUNCHER": "process 1"},  # left from another shell
        {"LDAE_LAUNCHER": "job 7"} | {name: value for name, value in STEP.items() if name != "SLURM_STEP_ID"},
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3"},
        {"PMI_RANK": "3", "PMI_SIZE": "4", "PMIX_RANK": "3", "MPI_LOCALRANKID": "3"},
        {"SM_HOSTS": '["algo-1","algo-2"]', "SM_CURRENT_HOST": "algo-2", "SM_NUM_GPUS": "8"},
        {"RANK": "", "WORLD_SIZE": "", "LOCAL_RANK": "x"} | TORCHRUN,
    ],
)
def test_processes_that_another_program_has_numbered_are_no_ranks(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unnumbered(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Rank.from_environment() == Rank(0, 1, 0)


def unnumbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes all that numbers this process."""
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "LDAE_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("nodes", "host"), [("n7", "n7"), ("n[07-09,12],m1", "n07"), ("gpu-a,gpu-b", "gpu-a"), ("c3-n[1,5]", "c3-n1")]
)
def test_the_first_host_of_a_list_of_nodes(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


@pytest.mark.parametrize(("mode", "size"), [("cached", 4), ("exact", 2)])
def test_a_probe_by_several_is_the_probe_by_one(
    mode: Any, size: int, alone: Path, prepared: Path, tmp_path: Path
) -> None:
    probing = Probing(mode=mode, epochs=3, warmup=1, batch=24, rates=(1.0, 10.0), extract_batch=10)

    def work(out: Path) -> None:
        folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": alone}
        probe(ProbeStage(probing=probing, time=100, noisy=True), row="tiny", revision=1, out=out, **folders)

    work(tmp_path / "1")
    in_group(size, tmp_path / "n", lambda: work(tmp_path / "n"))
    one, other = (np.load(tmp_path / folder / "correct.npz")["0/linear"] for folder in "1n")
    np.testing.assert_array_equal(one, other)
    one, other = (read_json(tmp_path / folder / "probe.json")["blocks"] for folder in "1n")
    assert one == other


def test_a_row_fine_tuned_by_several_is_the_row_fine_tuned_by_one(alone: Path, prepared: Path, tmp_path: Path) -> None:
    stage = FinetuneStage(
        layer_decay=0.75, finetuning=Finetuning(steps=6, batch=16, rate=0.02, warmup=0.1, log_every=2)
    )

    def work(folder: Path) -> None:
        folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": alone}
        finetune(stage, row="tiny", revision=1, resume=folder / "resume", out=folder / "out", **folders)

    work(tmp_path / "1")
    in_group(2, tmp_path / "2", lambda: work(tmp_path / "2"))
    equal(tmp_path / "1/out", tmp_path / "2/out", names=())
    one, other = (torch.load(tmp_path / folder / "resume/finished.pt")["weights"] for folder in "12")
    for name in ("network.head.weight", "average.fc_norm.weight", "network.blocks.0.mlp.fc1.weight"):
        torch.testing.assert_close(other[name], one[name], rtol=1e-4, atol=1e-5)


def test_samples_by_several_are_the_samples_by_one(prepared: Path, tmp_path: Path) -> None:
    train_row(prepared, tmp_path, **ROWS["labels"])

    def work(out: Path) -> None:
        folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": tmp_path / "out"}
        stage = SampleStage(sampling=Sampling(num=110, steps=3, batch=25))  # the last batch is smaller
        sample(stage, row="tiny", revision=1, out=out, **folders)

    work(tmp_path / "1")
    for size in (2, 4):
        in_group(size, tmp_path / str(size), lambda size=size: work(tmp_path / str(size)))
        one, other = ((tmp_path / folder / "samples.npy").read_bytes() for folder in ("1", str(size)))
        assert one == other


def test_a_command_starts_its_processes_itself(alone: Path, prepared: Path, tmp_path: Path) -> None:
    stage = SampleStage(sampling=Sampling(num=100, steps=3, batch=50))
    command = [sys.executable, "-m", "ldae.cli", "sample", "--row", "tiny", "--spec", stage.to_json()]
    command += ["--processes", "2"]
    folders: dict[str, Path] = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": alone}
    sample(stage, row="tiny", revision=1, out=tmp_path / "1", **folders)
    for name, folder in (folders | {"out": tmp_path / "2"}).items():
        command += [f"--{name}", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert said.returncode == 0, said.stderr
    assert len([line for line in said.stderr.splitlines() if "tiny" in line]) == 1  # rank 0 alone speaks
    assert (tmp_path / "1/samples.npy").read_bytes() == (tmp_path / "2/samples.npy").read_bytes()


def ranks_of(size: int, *arguments: str, present: int | None = None) -> list[Forked]:
    """Ranks of one command, as `--processes` starts them; fewer than they are told where some are not `present`."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(size)}
    meeting |= {"LDAE_LAUNCHER": f"process {os.getpid()}"}
    numbers = map(str, range(present or size))
    return [Forked(*arguments, environment=os.environ | meeting | {"RANK": n, "LOCAL_RANK": n}) for n in numbers]


def sampling(prepared: Path, out: Path) -> list[str]:
    """The arguments of a command that several processes can share."""
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "resume": out / "resume", "out": out}
    arguments = ["pretrain", "--row", "tiny", "--spec", PretrainStage(size=SIZE, training=TRAINING).to_json()]
    return arguments + [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [(signal.SIGTERM, 75, "stopped while it waited for other ranks"), (signal.SIGINT, 1, "ldae: interrupted")],
)
def test_a_rank_that_waits_for_others_says_so_and_can_be_stopped(
    asked: signal.Signals, status: int, words: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SECONDS_OF_SILENCE", 0.1)
    (running,) = ranks_of(4, *sampling(prepared, tmp_path), present=1)
    while "rank 0 waits: 1 of 4 ranks have come to" not in running.stderr:
        assert running.process.is_alive(), running.stderr
        time.sleep(0.05)
    assert running.process.pid is not None
    os.kill(running.process.pid, asked)
    ended = running.ended()
    assert ended.returncode == status and words in ended.stderr and "Traceback" not in ended.stderr


def test_a_rank_to_which_rank_0_does_not_answer_says_so(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SECONDS_TO_MEET", 0.5)
    about = {"RANK": "4", "LOCAL_RANK": "0", "WORLD_SIZE": "8", "MASTER_ADDR": "127.0.0.1"}  # of another machine
    about |= {"MASTER_PORT": str(_free_port()), "LDAE_LAUNCHER": f"process {os.getpid()}"}
    ended = Forked(*sampling(prepared, tmp_path), environment=os.environ | about).ended()
    assert ended.returncode == 1 and len(ended.stderr.splitlines()) == 1
    assert "rank 4: after 0.5 seconds, rank 0 does not answer at 127.0.0.1" in ended.stderr


def test_ranks_that_do_not_come_are_not_waited_for_without_end(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SECONDS_TO_MEET", 0.5)
    started = ranks_of(4, *sampling(prepared, tmp_path), present=2)
    first, second = (running.ended() for running in started)
    assert (first.returncode, second.returncode, second.stderr) == (1, 1, "")
    said = [line for line in first.stderr.splitlines() if not line.startswith("on ")]  # the device
    assert len(said) == 1 and "2 of 4 ranks have come" in said[0]


def test_ranks_that_wait_for_a_training_elsewhere_stop_together(prepared: Path, tmp_path: Path) -> None:
    """Rank 0 waits for the run's folder, and the others for rank 0."""
    with sole_holder(tmp_path / "resume", print):
        started = ranks_of(2, *sampling(prepared, tmp_path))
        while "waiting: " not in started[0].stderr:
            assert started[0].process.is_alive(), started[0].stderr
            time.sleep(0.05)
        for running in started:
            assert running.process.pid is not None
            os.kill(running.process.pid, signal.SIGTERM)
        first, second = (running.ended() for running in started)
    assert (first.returncode, second.returncode, second.stderr) == (75, 0, "")
    assert "SIGTERM was received" in first.stderr and "Traceback" not in first.stderr


@pytest.mark.graph  # it takes as long as many of the others together
def test_torchrun_can_start_the_ranks(prepared: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ldae.cli", *sampling(prepared, tmp_path / "2")]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert said.returncode == 0, said.stderr
    assert read_json(tmp_path / "2/run.json")["provenance"]["processes"] == 2


def test_a_mistake_of_several_processes_is_one_line(prepared: Path, tmp_path: Path) -> None:
    """As `--processes 3` starts them, which says nothing more itself (`test_launch.py`)."""
    spec = PretrainStage(size=SIZE, training=TRAINING, **ROWS["noise"]).to_json()
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "resume": tmp_path, "out": tmp_path}
    arguments = ["pretrain", "--row", "tiny", "--spec", spec, "--processes", "3"]
    arguments += [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    ended = [running.ended() for running in ranks_of(3, *arguments)]
    assert [rank.returncode for rank in ended] == [1, 1, 1]
    said = [line for rank in ended for line in rank.stderr.splitlines() if not line.startswith("on ")]  # the device
    assert said == ["ldae: tiny: batch: 16 images cannot be divided among 3 processes; 15 or 18 could"]


def test_only_rank_0_writes(prepared: Path, tmp_path: Path) -> None:
    in_group(2, tmp_path / "2", lambda: train_row(prepared, tmp_path / "2", **ROWS["noise"]))
    assert read_json(tmp_path / "2/out/run.json")["seed"] == 0
    assert sorted(path.name for path in (tmp_path / "2/resume").iterdir()) == ["finished.pt", "history.csv", "lock"]
    assert (tmp_path / "2/resume/history.csv").read_bytes() == (tmp_path / "2/out/history.csv").read_bytes()
    shutil.rmtree(tmp_path / "2/out")
    in_group(2, tmp_path / "2", lambda: train_row(prepared, tmp_path / "2", **ROWS["noise"]))  # hands over again
    assert (tmp_path / "2/out/model.safetensors").exists()
