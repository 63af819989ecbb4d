"""Trackers are told what the history says. TensorBoard is the real one; Weights & Biases and trackio are stand-ins.

The stand-ins have the part of those packages' interface that the adapters use, as their documentation describes it, and
write what they are told into a file: they show what we say, not what the real packages make of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import typing
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from forked import Forked
from graph import Graph

from ldae.runtime.process import LAUNCHER
from ldae.stages.pretrain import pretrain
from ldae.study.checking import StudyError
from ldae.study.spec import PretrainStage, Scale, Size, Tokenizer, Training
from ldae.training.loop import Run
from ldae.training.tracking import TRACKERS, TRACKING, check, parsed, tracked
from ldae.training.tracking import Training as Tracked

STEPS = 14
STAGE = PretrainStage(
    tokenizer=Tokenizer(dim=8),
    size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
    training=Training(steps=STEPS, batch=20, rate=0.01, warmup=0.2, log_every=2),
)

WANDB = """
import json, os, pathlib
TOLD = pathlib.Path(os.environ["TOLD"])
class Run:
    def __init__(self, id, mode):
        lines = [json.loads(line) for line in TOLD.read_text().splitlines()] if TOLD.exists() else []
        known = [line["step"] for line in lines if line["id"] == id]
        self.id, self.step = id, max(known) + 1 if known and mode != "offline" else 0
    def log(self, values, step):
        assert step >= self.step, "wandb ignores a step that is past"
        self.step = step + 1
        with TOLD.open("a") as file:
            file.write(json.dumps({"id": self.id, "step": step, "values": values}) + "\\n")
    def finish(self):
        pass
def init(*, project, name, id, resume, dir, config, mode):
    assert resume == "allow" and pathlib.Path(dir).is_dir() and config["made_from"]
    with pathlib.Path(os.environ["TOLD"] + ".inits").open("a") as file:
        file.write(json.dumps({"project": project, "name": name, "id": id, "mode": mode}) + "\\n")
    return Run(id, mode)
"""

TRACKIO = """
import json, os, pathlib
TOLD = pathlib.Path(os.environ["TOLD"])
def read():
    return json.loads(TOLD.read_text()) if TOLD.exists() else {}
class Earlier:
    def __init__(self, name):
        self.name = name
    def delete(self):
        TOLD.write_text(json.dumps({name: steps for name, steps in read().items() if name != self.name}))
        return True
class Api:
    def runs(self, project):
        if not TOLD.exists():
            raise ValueError("Project does not exist")
        return [Earlier(name) for name in read()]
class Run:
    def __init__(self, name):
        self.name = name
    def log(self, values, step):
        told = read()
        told.setdefault(self.name, []).append([step, values])
        TOLD.write_text(json.dumps(told))
    def finish(self):
        pass
def init(*, project, name, config):
    return Run(name)
"""


def train(prepared: Path, folder: Path) -> list[bytes]:
    """Trains with a checkpoint at every chance, and returns the bytes of what it left."""
    folders: dict[str, Any] = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca"}
    pretrain(
        STAGE,
        row="tiny",
        seed=0,
        revision=1,
        **folders,
        resume=folder / "resume",
        out=folder / "out",
        checkpoint_seconds=0,
    )
    return [(folder / "out" / name).read_bytes() for name in ("model.safetensors", "history.csv")]


def kill_at(step: int, prepared: Path, folder: Path) -> None:
    """Trains up to a step and loses the checkpoints: what was told before is measured again."""
    update = Run.update

    def stopping(self: Run, *arguments: Any) -> Any:
        if self.step == step:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(prepared, folder)
    for name in ("checkpoint.pt", "previous.pt"):
        (folder / "resume" / name).unlink()


def history(folder: Path) -> list[tuple[int, dict[str, float]]]:
    header, *lines = (folder / "out/history.csv").read_text().splitlines()
    return [parsed(header, line) for line in lines]


@pytest.fixture(scope="module")
def untracked(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return train(prepared, tmp_path_factory.mktemp("untracked"))


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts a stand-in for a package into the way of its import; returns the file that it writes into."""
    packages = tmp_path / "packages"
    for name, source in (("wandb", WANDB), ("trackio", TRACKIO)):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    return tmp_path / "told"


def test_tensorboard_has_the_history_without_gap_or_duplicate_though_it_was_killed(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untracked: list[bytes]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv(TRACKING, "tensorboard")
    kill_at(9, prepared, tmp_path)
    assert train(prepared, tmp_path) == untracked
    events = EventAccumulator(str(tmp_path / "resume"), size_guidance={"scalars": 0})
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "gradient_norm", "rate"}
    for name in ("loss", "gradient_norm", "rate"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        wanted = [(step, values[name]) for step, values in history(tmp_path)]
        assert [step for step, _ in found] == [step for step, _ in wanted]
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_weights_and_biases_hears_each_line_once_from_two_attempts(
    prepared: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch, untracked: list[bytes]
) -> None:
    monkeypatch.setenv(TRACKING, "wandb")
    kill_at(9, prepared, tmp_path)
    assert train(prepared, tmp_path) == untracked
    lines = [json.loads(line) for line in stand_in.read_text().splitlines()]
    assert [(line["step"], line["values"]) for line in lines] == history(tmp_path)
    inits = [json.loads(line) for line in (tmp_path / "told.inits").read_text().splitlines()]
    assert len(inits) == 2 and inits[0] == inits[1]  # the second attempt goes on with the first one's run
    assert inits[0]["project"] == "ldae" and inits[0]["mode"] is None
    assert inits[0]["name"].startswith("tiny-seed0-")


def test_offline_each_attempt_leaves_the_history_from_its_start(
    prepared: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKING, "wandb-offline")
    kill_at(9, prepared, tmp_path)
    first = len(stand_in.read_text().splitlines())
    train(prepared, tmp_path)
    second = [json.loads(line) for line in stand_in.read_text().splitlines()[first:]]
    assert [(line["step"], line["values"]) for line in second] == history(tmp_path)
    assert '"mode": "offline"' in (tmp_path / "told.inits").read_text()


def test_trackio_hears_each_line_once_from_two_attempts(
    prepared: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch, untracked: list[bytes]
) -> None:
    monkeypatch.setenv(TRACKING, "trackio")
    kill_at(9, prepared, tmp_path)
    assert train(prepared, tmp_path) == untracked
    ((name, told),) = json.loads(stand_in.read_text()).items()
    assert name.startswith("tiny-seed0-")
    assert [(step, values) for step, values in told] == history(tmp_path)


def test_a_tracker_that_fails_is_left_out_and_the_training_goes_on(
    prepared: Path,
    tmp_path: Path,
    stand_in: Path,
    monkeypatch: pytest.MonkeyPatch,
    untracked: list[bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    import trackio  # the stand-in

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(trackio.Run, "log", full)
    monkeypatch.setenv(TRACKING, "trackio")
    assert train(prepared, tmp_path) == untracked
    said = [line for line in capfd.readouterr().err.splitlines() if "trackio" in line]
    assert said == ["tiny: trackio has failed and is told no more: no space left"]


def test_of_several_ranks_only_the_first_tells(tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKING, "trackio")
    monkeypatch.setenv(LAUNCHER, f"process {os.getppid()}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    lines = ["step,images,loss", "2,40,0.5"]
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        with tracked(lines, Tracked("tiny", 0, "{}", tmp_path)):
            assert stand_in.exists() == (rank == 0)


def test_the_scale_file_s_words_are_the_trackers() -> None:
    (words, _) = typing.get_args(Scale.model_fields["tracking"].annotation)
    assert typing.get_args(words) == tuple(TRACKERS)


def test_a_tracker_that_is_missing_or_unknown_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check([])
    with pytest.raises(StudyError, match="'wandb-offline' needs the package 'wandb', which is not installed"):
        check(["wandb-offline"])
    with pytest.raises(StudyError, match="'tensorbord' is no tracker .did you mean 'tensorboard'"):
        check(["tensorbord"])


def shells(graph: Graph) -> Counter[str]:
    """The commands that a dry run prints."""
    return Counter(line.strip() for line in graph.dry_run("-p", "--forceall", "dae").splitlines() if "ldae " in line)


def test_a_choice_of_trackers_changes_no_command(tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path)
    before = shells(graph)
    assert any("ldae pretrain" in line for line in before)
    scale = graph.folder / "scales/smoke.yaml"
    scale.write_text(scale.read_text() + "tracking: [tensorboard]\n")
    assert shells(graph) == before


def test_a_missing_package_ends_a_dry_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snakemake.cli import main

    graph = Graph.fresh(tmp_path)
    scale = graph.folder / "scales/smoke.yaml"
    scale.write_text(scale.read_text() + "tracking: [trackio]\n")
    found = importlib.util.find_spec

    def hiding(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "trackio" else found(name, package)

    monkeypatch.setattr("importlib.util.find_spec", hiding)
    said = Forked("-n", "--cores", "1", "dae", main=main, folder=graph.folder).ended()
    assert said.returncode != 0
    lines = [line for line in said.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert len(lines) == 1
    assert "'trackio' needs the package 'trackio', which is not installed" in lines[0]
