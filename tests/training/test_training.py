from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from forked import Forked, forked
from rows import TRAINING, denoiser, images, run
from torch import Tensor, nn

from ldae.parts.tokenizers.conv import Residual
from ldae.runtime.device import recompute_activations
from ldae.runtime.locking import sole_holder
from ldae.stages import pretrain as stage_module
from ldae.stages.pretrain import denoiser_task, pretrain
from ldae.study.base import Size
from ldae.study.recipes import Training
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import PretrainStage
from ldae.training.loop import TrainingRun
from ldae.training.step import LossTask, WeightEMA, learning_rate

STEPS = 14
STAGE = PretrainStage(
    tokenizer=Tokenizer(dim=8),
    size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
    training=Training(steps=STEPS, batch=20, rate=0.01, warmup=0.2, log_every=2),
)
OUTPUTS = ("model.safetensors", "ema.safetensors", "history.csv")


def train(prepared: Path, folder: Path, stage: PretrainStage = STAGE, revision: int = 1, seed: int = 0) -> list[bytes]:
    """Trains, with a checkpoint at every chance, and returns the bytes of what it left."""
    pretrain(
        stage,
        row="tiny",
        seed=seed,
        revision=revision,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        resume=folder / "resume",
        out=folder / "out",
        checkpoint_seconds=0,
    )
    return [(folder / "out" / name).read_bytes() for name in OUTPUTS]


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this many more steps happen, then ends the process's patience."""
    update, left = TrainingRun.update, iter(range(steps))

    def stopping(self: TrainingRun, *arguments: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return update(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingRun, "update", stopping)


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return train(prepared, tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("steps", [0, 1, *random.Random(0).sample(range(2, STEPS), 4)])
def test_a_run_stopped_anywhere_ends_in_the_same_bytes(
    steps: int, prepared: Path, tmp_path: Path, uninterrupted: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(steps, patch)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, tmp_path)
    assert train(prepared, tmp_path) == uninterrupted


def test_a_finished_run_hands_over_its_outputs_without_a_step(
    prepared: Path, tmp_path: Path, uninterrupted: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(prepared, tmp_path)
    for name in OUTPUTS:
        (tmp_path / "out" / name).unlink()
    stop_after(0, monkeypatch)
    assert train(prepared, tmp_path) == uninterrupted


def test_a_running_training_shows_its_history_without_gap_or_duplicate(
    prepared: Path, tmp_path: Path, uninterrupted: list[bytes]
) -> None:
    lines = uninterrupted[OUTPUTS.index("history.csv")].decode().splitlines(keepends=True)
    growing = tmp_path / "resume/history.csv"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, tmp_path)
    assert growing.read_text() == "".join(lines[:5])  # the header, and a line after every second step
    for name in ("checkpoint.pt", "previous.pt"):  # so that it starts again
        (tmp_path / "resume" / name).unlink()
    train(prepared, tmp_path)
    assert growing.read_text() == "".join(lines)


@pytest.mark.parametrize("change", ["spec", "revision", "seed"])
def test_a_checkpoint_of_another_run_is_passed_over(
    change: str, prepared: Path, tmp_path: Path, uninterrupted: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    other = {
        "spec": {"stage": STAGE.model_copy(update={"training": STAGE.training.model_copy(update={"rate": 0.02})})},
        "revision": {"revision": 2},
        "seed": {"seed": 1},
    }[change]
    assert train(prepared, tmp_path, **other) != uninterrupted or change == "revision"  # type: ignore[arg-type]
    assert train(prepared, tmp_path) == uninterrupted
    assert "another specification" in capfd.readouterr().err


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    prepared: Path, tmp_path: Path, uninterrupted: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, tmp_path)
    damaged = tmp_path / "resume/checkpoint.pt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert train(prepared, tmp_path) == uninterrupted
    said = capfd.readouterr().err
    assert "checkpoint.pt: cannot be read" in said
    assert "resuming at step 8" in said


def test_a_loss_that_is_no_number_ends_the_run_by_name(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(
        stage_module.Denoiser, "forward", lambda self, *_: nan * self.network.head.bias.sum().expand(20)
    )
    with pytest.raises(ValueError, match=r"tiny: loss nan.*steps 0 and 2.*lower the rate"):
        train(prepared, tmp_path)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "resume/checkpoint.pt").exists()


def test_weight_decay_shrinks_matrices_by_their_share_of_the_rate_and_nothing_else() -> None:
    plain, (stage, model) = run("ldae"), denoiser("ldae")
    decaying = denoiser_task(
        model, stage.model_copy(update={"training": TRAINING.model_copy(update={"weight_decay": 0.3})})
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    measured = plain.update(images(), torch.arange(8) % 3)
    other = TrainingRun(decaying, title="", seed=0, total=60, batch=8, log_every=1, identity="")
    other.update(images(), torch.arange(8) % 3)
    for start, ours, theirs in zip(before, decaying.network.parameters(), plain.task.network.parameters(), strict=True):
        shrunk = measured["rate"] * 0.3 * start if start.ndim > 1 else torch.zeros_like(start)
        torch.testing.assert_close(theirs - ours, shrunk, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("row", ["pca", "ldae"])
def test_micro_batches_equal_the_whole_batch(row: str) -> None:
    whole, parts = run(row), run(row)
    assert isinstance(parts.task, LossTask)
    parts.task.micro_batch = 3
    start = nn.utils.parameters_to_vector(whole.task.module.parameters()).detach().clone()
    for _ in range(4):
        first = whole.update(images(), torch.arange(8) % 3)
        second = parts.update(images(), torch.arange(8) % 3)
        torch.testing.assert_close(first["loss"], second["loss"], rtol=1e-5, atol=1e-6)
    ours, theirs = (nn.utils.parameters_to_vector(task.module.parameters()) for task in (whole.task, parts.task))
    # Adam moves a weight by the sign of its gradient at first: where that is next to zero, rounding decides it
    assert (ours - theirs).norm() < 1e-2 * (ours - start).norm()


def test_recomputed_activations_give_the_same_gradients_and_are_not_kept() -> None:
    def kept(recompute: bool) -> tuple[int, list[Tensor]]:
        torch.manual_seed(0)
        blocks = nn.Sequential(*(Residual(16, 16) for _ in range(4)))
        if recompute:
            recompute_activations(blocks)
        images = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x.nbytes), x)[1], lambda x: x):
            loss = blocks(images).square().sum()
        loss.backward()
        return sum(saved), [parameter.grad for parameter in blocks.parameters() if parameter.grad is not None]

    plain, gradients = kept(False)
    less, again = kept(True)
    assert less < plain / 3
    for first, second in zip(gradients, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_step_depends_on_its_number_and_seed_alone() -> None:
    first, second = run("pca"), run("pca")
    torch.rand(100)  # the global state plays no part
    losses = [training.update(images(), torch.arange(8) % 3)["loss"] for training in (first, second)]
    assert losses[0] == losses[1]


def test_the_rate_warms_up_and_falls_like_half_a_cosine() -> None:
    rates = [learning_rate(step, total=1000, peak=2.0, warmup=0.1) for step in range(1000)]
    assert rates[0] == pytest.approx(2 / 101)
    assert max(rates) == pytest.approx(2.0)
    assert rates.index(max(rates)) == 100
    assert rates[550] == pytest.approx(1.0, abs=0.01)
    assert rates[-1] < 1e-4
    assert rates[700] == pytest.approx(1 + math.cos(math.pi * 600 / 900))


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert learning_rate(0, total=10, peak=1.0, warmup=0.0) == 1.0


def test_averaged_weights_warm_up_their_decay() -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    weight.weight.data.fill_(0.0)
    average = WeightEMA(weight, 0.9)
    expected = 0.0
    for step in range(200):
        weight.weight.data.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.network.weight.item() == pytest.approx(expected, rel=1e-5)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ldae.runtime.locking import sole_holder\n"
        "with sole_holder(Path(sys.argv[1]), print): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert waiter.stdout is not None
    assert waiter.stdout.readline().startswith(f"waiting: {tmp_path} is held by process {holder.pid}")
    holder.kill()  # a lock ends with its process, however that ended
    assert waiter.stdout.readline() == "held\n"
    waiter.kill()
    for process in (holder, waiter):
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_left_on_another_machine_holds_while_its_heart_beats(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"host": "elsewhere", "pid": 1, "started": 1.0, "locks": null}')
    said: list[str] = []

    def give_up(line: str) -> None:
        said.append(line)
        raise TimeoutError

    with pytest.raises(TimeoutError), sole_holder(tmp_path, give_up):
        pass
    assert "elsewhere" in said[0]
    os.utime(tmp_path / "lock", (time.time() - 3600,) * 2)
    with sole_holder(tmp_path, give_up):
        pass


def command(prepared: Path, folder: Path, steps: int) -> list[str]:
    """The arguments of a training."""
    spec = STAGE.model_copy(update={"training": STAGE.training.model_copy(update={"steps": steps})}).to_json()
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca"}
    folders |= {"resume": folder / "resume", "out": folder / "out"}
    named = [part for name, path in folders.items() for part in (f"--{name}", str(path))]
    return ["pretrain", "--row", "tiny", "--spec", spec, *named]


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of the profile, in the state $STATE, whose requests stand in a file `asked`."""
    for name, does in (("scontrol", f'echo "$@" > {tmp_path}/asked'), ("squeue", 'echo "$STATE"')):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    about = {"SLURM_JOB_ID": "7", "LDAE_JOB": f"7 {time.time()}"}
    return os.environ | about | {"PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}


def signalled(running: Forked, number: signal.Signals, *, once: Callable[[], bool]) -> CompletedProcess[str]:
    """What becomes of a command that is sent a signal as soon as something is so."""
    while not once():
        assert running.process.is_alive()
        time.sleep(0.05)
    assert running.process.pid is not None
    os.kill(running.process.pid, number)
    return running.ended()


@pytest.mark.parametrize(
    ("asked", "state", "goes_on"),
    [
        (signal.SIGTERM, "COMPLETING", False),  # cancelled
        (signal.SIGTERM, "RUNNING", True),  # about to be preempted
        (signal.SIGUSR1, "RUNNING", True),  # as `sbatch --signal` announces a limit
    ],
)
def test_a_run_that_is_asked_to_stop_saves_and_says_so(
    asked: signal.Signals, state: str, goes_on: bool, slurm: dict[str, str], prepared: Path, tmp_path: Path
) -> None:
    arguments = [*command(prepared, tmp_path, 10**6), "--checkpoint-seconds", "0.2"]
    running = Forked(*arguments, environment=slurm | {"STATE": state})
    ended = signalled(running, asked, once=(tmp_path / "resume/checkpoint.pt").exists)
    assert ended.returncode == 75
    said = f"tiny: saved and stopped at step {steps_saved(tmp_path)} of 1000000: {asked.name} was received"
    assert said in ended.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "asked").exists() == goes_on


def test_a_stage_without_checkpoints_is_queued_again_too(
    slurm: dict[str, str], prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldae.runtime.progress.LINE_SECONDS", 0.0)
    spec = '{"probing":{"batch":24,"epochs":1000000,"mode":"cached","rates":[1.0],"warmup":1}}'
    arguments = ["probe-pixels", "--spec", spec, "--out", str(tmp_path / "out"), "--dataset", str(prepared / "dataset")]
    running = Forked(*arguments, environment=slurm | {"STATE": "RUNNING"})
    ended = signalled(running, signal.SIGTERM, once=lambda: "steps" in running.stderr)
    assert ended.returncode == 75
    assert "stopped: SIGTERM was received" in ended.stderr and "Traceback" not in ended.stderr
    assert (tmp_path / "asked").read_text() == "requeue 7\n"


def steps_saved(folder: Path) -> int:
    state = torch.load(folder / "resume/checkpoint.pt", weights_only=True)
    return int(state["step"])


def test_a_run_stops_before_its_time_limit_on_a_cluster_alone(
    slurm: dict[str, str], prepared: Path, tmp_path: Path, uninterrupted: list[bytes]
) -> None:
    long = [*command(prepared, tmp_path / "long", 10**6), "--minutes", "0.02"]
    stopped = Forked(*long, environment=slurm).ended()
    assert stopped.returncode == 75
    assert "its time limit is near" in stopped.stderr
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    short = [*command(prepared, tmp_path / "short", STEPS), "--minutes", "0.0001"]
    assert forked(*short).returncode == 0  # on a laptop nobody enforces a limit
    assert [(tmp_path / "short/out" / name).read_bytes() for name in OUTPUTS] == uninterrupted


@pytest.mark.parametrize("mark", [None, "6 0.0", "7", "nonsense"])
def test_another_s_job_is_neither_stopped_nor_queued_again(
    mark: str | None, slurm: dict[str, str], prepared: Path, tmp_path: Path, uninterrupted: list[bytes]
) -> None:
    """E.g. one in which a person runs `snakemake --cores 16`, or that a job of the profile has submitted."""
    environment = {name: value for name, value in slurm.items() if name != "LDAE_JOB"} | {"STATE": "RUNNING"}
    if mark is not None:
        environment["LDAE_JOB"] = mark
    short = [*command(prepared, tmp_path / "short", STEPS), "--minutes", "0.0001"]
    assert Forked(*short, environment=environment).ended().returncode == 0
    assert [(tmp_path / "short/out" / name).read_bytes() for name in OUTPUTS] == uninterrupted
    long = [*command(prepared, tmp_path / "long", 10**6), "--checkpoint-seconds", "0.2"]
    running = Forked(*long, environment=environment)
    ended = signalled(running, signal.SIGTERM, once=(tmp_path / "long/resume/checkpoint.pt").exists)
    assert ended.returncode == 75 and "saved and stopped" in ended.stderr
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [(signal.SIGTERM, 75, "SIGTERM was received"), (signal.SIGINT, 1, "ldae: interrupted")],
)
def test_a_training_that_waits_for_another_can_be_stopped(
    asked: signal.Signals, status: int, words: str, prepared: Path, tmp_path: Path
) -> None:
    first = Forked(*command(prepared, tmp_path, 10**6), "--checkpoint-seconds", "0.2")
    while not (tmp_path / "resume/checkpoint.pt").exists():
        assert first.process.is_alive()
        time.sleep(0.05)
    second = Forked(*command(prepared, tmp_path, 10**6))
    ended = signalled(second, asked, once=lambda: "waiting: " in second.stderr)
    assert ended.returncode == status
    assert words in ended.stderr and "Traceback" not in ended.stderr
    first.process.terminate()
    first.ended()
