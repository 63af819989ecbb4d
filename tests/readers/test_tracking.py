"""Trackers get what the histories say: the real packages where they are installed, without a network."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked import forked

from ldae.commands.study import TRACKERS as NAMES
from ldae.readers import tracking
from ldae.readers.tracking import TRACKERS, histories, track

Steps = list[tuple[int, dict[str, float]]]


def write(path: Path, steps: range, scale: float = 1.0) -> Steps:
    """Writes a history with a line for each of the steps; returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [(step, {"loss": scale / step, "rate": 0.5 * step}) for step in steps]
    lines = [f"{step},{16 * step},{of['loss']!r},{of['rate']!r}\n" for step, of in values]
    path.write_text("".join(["step,images,loss,rate\n", *lines]))
    return values


def in_tensorboard(results: Path) -> dict[str, Steps]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    runs: dict[str, Steps] = {}
    for folder in (results / "tracking/tensorboard").iterdir():
        events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        events.Reload()
        steps: dict[int, dict[str, float]] = {}
        for name in events.Tags()["tensors"]:
            for event in events.Tensors(name):
                values = steps.setdefault(event.step, {})
                assert name not in values, "a step is there twice"
                values[name] = float(make_ndarray(event.tensor_proto))
        runs[folder.name] = list(steps.items())
    return runs


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of W&B's file: a log as LevelDB writes it, in blocks of 32 KiB, behind a header of 7 bytes."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:  # the rest of a block, which is too short for a record
            place += -place % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def in_wandb(results: Path) -> dict[str, Steps]:
    from wandb.proto.wandb_internal_pb2 import Record

    runs: dict[str, Steps] = {}
    for path in sorted((results / "tracking/wandb").glob("offline-run-*/*.wandb")):
        for record in map(Record.FromString, wandb_records(path)):
            items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            if items:
                values = {name: json.loads(items[name]) for name in ("loss", "rate")}
                runs.setdefault(path.stem.removeprefix("run-"), []).append((json.loads(items["_step"]), values))
    return runs


def in_trackio(results: Path) -> dict[str, Steps]:
    from trackio.sqlite_storage import SQLiteStorage

    return {
        run: [
            (line["step"], {name: line[name] for name in ("loss", "rate")})
            for line in SQLiteStorage.get_logs("ldae", run)
        ]
        for run in SQLiteStorage.get_runs("ldae")
    }


READ: dict[str, Callable[[Path], dict[str, Steps]]] = {
    "tensorboard": in_tensorboard,
    "wandb": in_wandb,
    "trackio": in_trackio,
}


def approximately(steps: Steps) -> list[object]:
    return [(step, pytest.approx(values, rel=1e-6)) for step, values in steps]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path / "results/tiny"


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_gets_each_line_once_however_often_it_is_asked(name: str, results: Path) -> None:
    pytest.importorskip(name)
    finished = write(results / "pretrain/ldae/seed0/history.csv", range(2, 10, 2))
    running = results / "resume/tokenizers/conv_d16/history.csv"
    write(running, range(5, 15, 5))
    for _ in range(2):
        track(results, name)
    grown = write(running, range(5, 25, 5))
    track(results, name)
    runs = READ[name](results)
    assert sorted(run.rpartition("-")[0] for run in runs) == ["pretrain-ldae-seed0", "tokenizers-conv_d16"]
    by_place = {run.rpartition("-")[0]: steps for run, steps in runs.items()}
    assert by_place["pretrain-ldae-seed0"] == approximately(finished)
    assert by_place["tokenizers-conv_d16"] == approximately(grown)


def test_a_running_training_is_followed_until_it_has_finished(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = results / "resume/pretrain/ldae/seed0/history.csv"
    write(running, range(2, 6, 2))
    changes = iter([range(2, 10, 2), range(2, 14, 2)])

    def meanwhile(_: float) -> None:
        steps = next(changes, None)
        if steps is None:
            raise KeyboardInterrupt
        write(running if steps.stop < 14 else results / "pretrain/ldae/seed0/history.csv", steps)

    monkeypatch.setattr(tracking.time, "sleep", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        track(results, "tensorboard", follow=True)
    ((_, steps),) = in_tensorboard(results).items()
    assert [step for step, _ in steps] == [2, 4, 6, 8, 10, 12]


def test_a_line_that_is_still_being_written_is_left_for_later(results: Path) -> None:
    path = results / "resume/pretrain/ldae/seed0/history.csv"
    steps = write(path, range(2, 8, 2))
    with path.open("a") as file:
        file.write("8,128,0.1")
    (history,) = histories(results)
    assert history.steps == steps
    assert history.running


def test_of_a_training_that_starts_again_the_newest_history_counts(results: Path) -> None:
    old, new = (results / folder / "pretrain/ldae/seed0/history.csv" for folder in (".", "resume"))
    write(old, range(2, 8, 2))
    steps = write(new, range(2, 6, 2), scale=2.0)
    os.utime(old, (0, 0))
    (first,) = histories(results)
    assert first.steps == steps
    os.utime(new, (0, 0))
    os.utime(old, (1, 1))
    (second,) = histories(results)
    assert first.run != second.run, "its other numbers make it another run"
    assert first.run.startswith("pretrain-ldae-seed0-") and second.run.startswith("pretrain-ldae-seed0-")


def test_a_mistake_is_one_line(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results / "pretrain/ldae/seed0/history.csv"
    results.mkdir(parents=True)
    with pytest.raises(ValueError, match="tiny: there is no history.csv of a training"):
        track(results, "tensorboard")
    write(path, range(2, 8, 2))
    monkeypatch.setitem(TRACKERS, "tensorboard", lambda run, folder: (_ for _ in ()).throw(OSError("no\nspace left")))
    with pytest.raises(ValueError, match="^tensorboard fails: no space left$"):
        track(results, "tensorboard")
    path.write_text("step,images,loss\n2,32\n")
    with pytest.raises(ValueError, match="history.csv: is not the history of a training"):
        track(results, "tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackio is not installed; install it with `pip install trackio`"):
        track(results, "trackio")


def test_the_command_offers_every_tracker_and_answers_in_one_line(results: Path) -> None:
    assert tuple(TRACKERS) == NAMES
    write(results / "pretrain/ldae/seed0/history.csv", range(2, 8, 2))
    said = forked("track", str(results), "--to", "tensorboard")
    assert said.returncode == 0, said.stderr
    assert len(said.stderr.splitlines()) == 1 and "3 lines, up to step 6" in said.stderr
    assert len(in_tensorboard(results)) == 1
    said = forked("track", str(results), "--to", "tensorbord")
    assert said.returncode == 2
    assert "did you mean 'tensorboard'" in said.stderr and len(said.stderr.splitlines()) == 1
