"""Distributed training: the process group of the ranks, and collective operations on tensors.

Each batch is divided into equal parts, one per rank; each rank has its own GPU if there are GPUs. With a single process
all functions are no-ops.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from ldae.runtime import progress
from ldae.runtime.launch import PORTS
from ldae.runtime.process import Rank, launched_by
from ldae.runtime.stopping import Stopped, stopping

PATIENCE = timedelta(hours=6)  # of a rank for another, e.g. for the one that waits for a run's lock
SECONDS_TO_MEET = 600.0  # that ranks wait for the last, which may import from a slow file system
SECONDS_OF_SILENCE = 5.0  # after which one waiting rank of each machine says so
SECONDS_TO_FAIL = 10.0  # that rank 0 waits for the others once it has failed


@contextmanager
def group() -> Iterator[Rank]:
    """Joins the process group that the environment describes, until the block ends; only rank 0 logs.

    If ranks fail, the first raises its error and the others exit with status 1; `Stopped` says that one should stop.
    """
    rank = Rank.from_environment()
    if rank.number:
        progress.mute()
    if rank.size == 1:
        yield rank
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        _take_gpu(rank)
    store = _meet(rank)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank.number, world_size=rank.size, timeout=PATIENCE
    )
    try:
        yield rank
    except Stopped:
        raise
    except Exception as error:
        reason = stopping.asked()
        if rank.number and reason:  # rank 0 was asked too and has left, which broke a collective operation here
            raise Stopped(f"stopped: {reason}") from error
        if _is_first_to_fail(store, rank):
            raise
        sys.exit(1)  # another rank reports the error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _meet(rank: Rank) -> Store:
    """Waits until all ranks have started, and returns their key-value store, which rank 0 or torchrun hosts.

    PyTorch's own rendezvous would wait inside C++, where signals cannot end it. On one rank of each machine a
    `TimeoutError` says which ranks have not come within `SECONDS_TO_MEET`; an `OSError` says that rank 0 cannot listen.
    """
    host, port, name = _meeting_point()
    hosts = not rank.number and not (launched_by() == "torchrun" and "TORCHELASTIC_USE_AGENT_STORE" in os.environ)
    patience = SECONDS_TO_MEET + (0 if rank.number else 1)  # the store ends with rank 0
    started, reports = time.monotonic(), not rank.local

    def wait(state: str) -> None:
        nonlocal reports
        stopping.check("while it waited for other ranks")
        waited = time.monotonic() - started
        if waited > patience and rank.local:
            sys.exit(1)
        if waited > patience:
            raise TimeoutError(f"rank {rank.number}: after {SECONDS_TO_MEET:g} seconds, {state} {host}, port {port}")
        if waited > SECONDS_OF_SILENCE and reports:
            print(f"rank {rank.number} waits: {state} {host}, port {port}", file=sys.stderr, flush=True)
            reports = False
        time.sleep(0.05)

    while not hosts and not _answers(host, port):
        wait("rank 0 does not answer at")
    try:
        connection = TCPStore(host, port, rank.size, hosts, PATIENCE, wait_for_workers=False)
    except RuntimeError as error:
        raise OSError(f"rank {rank.number} cannot meet the others at {host}, port {port}: {error}") from None
    store = PrefixStore(name, connection)
    try:
        present = store.add("present", 1)
        while present < rank.size:
            wait(f"{present} of {rank.size} ranks have come to")
            present = store.add("present", 0)
    except RuntimeError:  # rank 0 has ended
        sys.exit(1)
    return store


def _answers(host: str, port: int) -> bool:
    """Whether a process listens; torch would print a stack trace for an attempt that fails."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


def _meeting_point() -> tuple[str, int, str]:
    """Host and port of rank 0's store, and a name that is unique to this process group."""
    if launched_by() == "srun":
        job, step = os.environ["SLURM_JOB_ID"], os.environ["SLURM_STEP_ID"]
        port = PORTS[(int(job) + 7919 * int(step)) % len(PORTS)]  # two steps of one job may share a node
        return first_host(os.environ["SLURM_STEP_NODELIST"]), port, f"{job}.{step}"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun keeps its store when it starts ranks again
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), f"attempt {attempt}"


def _take_gpu(rank: Rank) -> None:
    """Assigns a GPU to this rank; if a machine has too few, one of its ranks raises a `ValueError`."""
    gpus = torch.cuda.device_count()
    if rank.local > gpus:
        sys.exit(1)  # the rank below reports the error
    if rank.local == gpus:
        raise ValueError(f"--processes: more than the {gpus} GPUs of {socket.gethostname()}; one a GPU would be right")
    torch.cuda.set_device(rank.local)


def _is_first_to_fail(store: Any, rank: Rank) -> bool:
    """Whether this failed rank is the first to fail and reports the error; later ones keep silent."""
    try:
        first = store.add("failed", 1) == 1
        dist.destroy_process_group()  # wakes up those that wait for this one; rank 0 stays a moment with its store
        deadline = time.monotonic() + SECONDS_TO_FAIL
        while not rank.number and store.add("failed", 0) < rank.size and time.monotonic() < deadline:
            time.sleep(0.05)
    except RuntimeError:  # rank 0 has gone, and with it what could be asked
        return True
    return bool(first)


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes, e.g. `n07` of `n[07-09,12],m1`."""
    return re.sub(r"^([^,\[]*)(\[(\w+)[^\]]*\])?.*$", r"\1\3", nodes)


def number() -> int:
    """The number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def part_of(batch: int, key: str) -> int:
    """The size of this rank's part of a batch; a `ValueError` if the batch is not divisible."""
    if batch % size():
        lower = batch // size() * size()
        fitting = " or ".join(str(value) for value in (lower, lower + size()) if value)
        raise ValueError(f"{key}: {batch} images cannot be divided among {size()} processes; {fitting} could")
    return batch // size()


def all_reduce_mean(values: Tensor) -> Tensor:
    """All-reduce: the mean of a tensor over all ranks; not differentiable."""
    return values if size() == 1 else all_reduce_sum(values) / size()


def all_reduce_sum(values: Tensor) -> Tensor:
    """All-reduce: the sum of a tensor over all ranks; not differentiable."""
    if size() > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values


def all_gather(values: Tensor) -> Tensor:
    """All-gather: the tensors of all ranks, concatenated along the first dimension; not differentiable."""
    if size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(size())]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


def broadcast(value: int) -> int:
    """Broadcasts rank 0's integer."""
    return _sum(0 if number() else value)


def barrier() -> None:
    """Waits until all ranks arrive here."""
    _sum(0)


def any_reduce(yes: bool) -> bool:
    """All-reduce: whether the value is true on any rank."""
    return _sum(int(yes)) > 0


def _sum(value: int) -> int:
    """The sum of an integer over all ranks."""
    if size() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return int(all_reduce_sum(torch.tensor(int(value), device=device)))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces gradients by their means over all ranks, for networks that `parallel` does not support."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    joined = all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, value in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(value.view_as(gradient))


def parallel(module: nn.Module) -> nn.Module:
    """Wraps a module in DistributedDataParallel, which averages gradients over all ranks during the backward pass."""
    return module if size() == 1 else nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)


def no_sync(module: nn.Module, yes: bool) -> AbstractContextManager[None]:
    """With `yes`, skips the all-reduce of a `parallel` module's gradients, to accumulate them (DDP `no_sync`)."""
    return module.no_sync() if yes and isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext()


class _Mean(torch.autograd.Function):
    """A differentiable mean over all ranks; its gradient is the mean of the gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return all_reduce_mean(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce_mean(gradient)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the parts of all ranks; inputs are (N, C, ...).

    By hand because `nn.SyncBatchNorm` needs GPUs: the tests compare ranks on the CPU with the code that GPUs run.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalises inputs (N, C, ...) per channel."""
        if size() == 1 or not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()  # statistics in half precision would not be those of a single process
        centre: Tensor = _Mean.apply(values.mean(axes))
        centred = values - centre.view(shape)
        variance: Tensor = _Mean.apply(centred.square().mean(axes))
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        count = size() * input.numel() / input.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(centre, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
        normed = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)
