"""Disks that are full or may not be written, and files that have changed on them: told in one line, nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.format import open_memmap

import ldae.training.loop as training_module
from ldae import cli
from ldae.runtime.arrays import CheckedRows, checksums_path, new_array, read_arrays
from ldae.runtime.files import history_file, write_text
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe
from ldae.stages.train_tokenizer import train_tokenizer
from ldae.study.base import Size
from ldae.study.recipes import Probing, Training
from ldae.study.scale import Photos, Sampling
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import (
    ConvolutionalStage,
    DatasetStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    TokenizerStage,
)
from ldae.training.loop import TrainingRun, load_checkpoint, read_state, save_checkpoint

MB = 2**20
STAGE = PretrainStage(
    tokenizer=Tokenizer(dim=8),
    size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
    training=Training(steps=4, batch=16, rate=0.01, warmup=0.2, log_every=2),
)
OUTPUTS = ("model.safetensors", "ema.safetensors", "history.csv")


class Disk:
    """A small disk of its own, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, room: int) -> None:
        """Fills it with something else until only so many bytes are left; the more that are, the less of it."""
        other = self.path / "other"
        other.unlink(missing_ok=True)
        free = shutil.disk_usage(self.path).free
        with other.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - room)

    def make_room(self) -> None:
        """Removes the other file."""
        (self.path / "other").unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written for a while, not even by root."""
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={16 * MB}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("mount") else None
    if mounted is None or mounted.returncode:
        pytest.skip(f"no small disk could be mounted: {mounted.stderr.strip() if mounted else 'there is no mount'}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """What is done inside ends with an error of one line that has these words."""
    with pytest.raises((OSError, ValueError)) as caught:
        yield
    said = str(caught.value)
    assert len(said.splitlines()) == 1, said
    assert all(word in said for word in words), said


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def train(prepared: Path, folder: Path, out: Path | None = None) -> list[bytes]:
    """Trains, with a checkpoint at every chance, and returns the bytes of what it left."""
    out = out or folder / "out"
    pretrain(
        STAGE,
        row="tiny",
        seed=0,
        revision=1,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        resume=folder / "resume",
        out=out,
        checkpoint_seconds=0,
    )
    return [(out / name).read_bytes() for name in OUTPUTS]


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return train(prepared, tmp_path_factory.mktemp("undisturbed"))


# ---------------------------------------------------------------------------------------------------------------------
# Full
# ---------------------------------------------------------------------------------------------------------------------


def photos(path: Path, workers: int = 1, train: int = 300) -> None:
    stage = DatasetStage(dataset=Photos(source="photos", size=16, train=train, val=40))
    prepare(stage, revision=1, out=path, workers=workers)


def test_images_that_do_not_fit_are_told_and_the_earlier_ones_stay(disk: Disk, tmp_path: Path) -> None:
    photos(disk.path / "dataset", train=100)
    before = contents(disk.path / "dataset")
    disk.leave(100_000)
    with refused("images.npy", "No space left on device"):
        photos(disk.path / "dataset")
    assert {name: contents(disk.path / "dataset").get(name) for name in before} == before
    assert shutil.disk_usage(disk.path).free > 50_000  # what was got of it has been given back
    disk.make_room()
    photos(disk.path / "dataset")
    photos(tmp_path / "undisturbed")
    for path in sorted((tmp_path / "undisturbed").glob("*.npy")):
        assert path.read_bytes() == (disk.path / "dataset" / path.name).read_bytes(), path.name


def test_an_array_has_its_room_before_anything_is_written(disk: Disk) -> None:
    """A memory map that outgrows the disk would end its process by SIGBUS."""
    disk.leave(10_000)
    open_memmap(disk.path / "sparse.npy", mode="w+", dtype=np.uint8, shape=(MB,))  # which promises too much
    (disk.path / "sparse.npy").unlink()
    with refused("full.npy", "No space left on device"):
        new_array(disk.path / "full.npy", np.uint8, (MB,))
    assert not (disk.path / "full.npy").exists()


def test_a_checkpoint_without_room_leaves_the_one_before(
    disk: Disk, prepared: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = TrainingRun.save

    def filling(self: TrainingRun, folder: Path) -> None:
        if self.step == 3:
            (folder / "previous.pt").unlink()  # whose room is else that of the next checkpoint
            disk.leave(1000)
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "save", filling)
        with refused("resume/checkpoint.pt", "is the disk full?"):
            train(prepared, disk.path)
    disk.make_room()
    said: list[str] = []
    monkeypatch.setattr(training_module, "log", said.append)
    assert train(prepared, disk.path) == undisturbed
    assert said == [f"resuming at step 2 from {disk.path}/resume/previous.pt"]


def test_weights_without_room_cost_no_step(
    disk: Disk, prepared: Path, tmp_path: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.leave(8000)
    with refused("out/model.safetensors", "No space left on device"):
        train(prepared, tmp_path, disk.path / "out")
    assert not list((disk.path / "out").iterdir())
    disk.make_room()
    monkeypatch.setattr(TrainingRun, "update", None)  # it cannot take a step
    assert train(prepared, tmp_path, disk.path / "out") == undisturbed


def test_other_stages_without_room_name_their_file(
    disk: Disk, prepared: Path, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    train(prepared, tmp_path)
    rows = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": tmp_path / "out"}
    disk.leave(0)
    with refused("pca/tokenizer.safetensors", "No space left"):
        fit_tokenizer(TokenizerStage(), seed=0, revision=1, dataset=prepared / "dataset", out=disk.path / "pca")
    probing = ProbeStage(probing=Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,)))
    with refused("probe/correct.npz", "No space left"):
        probe(probing, row="tiny", revision=1, out=disk.path / "probe", **rows)
    from ldae.stages.sample import sample

    with refused("samples/samples.npy", "No space left"):
        sampling = SampleStage(sampling=Sampling(num=100, steps=1, batch=50))
        sample(sampling, row="tiny", revision=1, out=disk.path / "samples", **rows)
    disk.leave(60_000)
    conv = {"width": 8, "blocks": 1, "steps": 1, "batch": 8, "rate": 0.001}
    with refused("vae/tokenizer.safetensors", "No space left"):
        train_tokenizer(
            ConvolutionalStage(dim=16, convolutional=conv),
            seed=0,
            revision=1,
            dataset=prepared / "dataset",
            resume=tmp_path / "resume-vae",
            out=disk.path / "vae",
        )
    disk.make_room()
    assert not any(path.is_file() and path.suffix != ".npy" for path in disk.path.rglob("*"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command says when it fails."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ldae", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = str(caught.value.code)
        assert said.startswith("ldae: ") and len(said.splitlines()) == 1, said
        return said

    return run


def test_a_table_without_room_leaves_the_one_before(
    disk: Disk, prepared: Path, tmp_path: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(prepared, tmp_path)
    command = ["cost", "--results", str(tmp_path / "out/run.json"), "--out", str(disk.path / "cost")]
    monkeypatch.setattr(sys, "argv", ["ldae", *command])
    cli.main()
    before = contents(disk.path)
    assert len(before) == 3
    disk.leave(0)
    assert re.search(r"No space left on device: '.*/disk/cost\.(md|csv|json)'$", told(*command))
    disk.make_room()
    assert contents(disk.path) == before


# ---------------------------------------------------------------------------------------------------------------------
# Read-only
# ---------------------------------------------------------------------------------------------------------------------


def test_nothing_is_begun_in_a_folder_that_cannot_be_written(
    disk: Disk, prepared: Path, tmp_path: Path, told: Callable[..., str]
) -> None:
    train(prepared, tmp_path)
    for name in ("dataset", "resume", "out"):
        (disk.path / name).mkdir()
    write_text(disk.path / "cost.md", "an earlier table")
    before = contents(disk.path)
    spec = '{"dataset":{"source":"photos","size":16,"train":20,"val":20}}'
    with disk.read_only():
        said = told("prepare", "--spec", spec, "--out", str(disk.path / "dataset"))
        assert f"Read-only file system: '{disk.path}/dataset/.images.npy.journal'" in said
        with refused("Read-only file system", f"{disk.path}/resume/lock"):
            train(prepared, disk.path)
        with refused("Read-only file system", f"{disk.path}/out/model.safetensors"):
            train(prepared, tmp_path, disk.path / "out")
        results = ["--results", str(tmp_path / "out/run.json")]
        assert f"Read-only file system: '{disk.path}/cost." in told("cost", *results, "--out", str(disk.path / "cost"))
    assert contents(disk.path) == before


# ---------------------------------------------------------------------------------------------------------------------
# Changed
# ---------------------------------------------------------------------------------------------------------------------


def flipped(path: Path, place: int, mask: int = 0x10) -> None:
    """Changes bits of a byte of a file; places below 0 count from its end."""
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


def test_any_changed_byte_of_a_checkpoint_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it is one that means nothing; torch by itself would load a third of them as other numbers."""
    monkeypatch.setattr(training_module, "log", lambda _: None)
    path, cpu = tmp_path / "checkpoint.pt", torch.device("cpu")
    weights = {"a": torch.arange(60.0), "b": torch.ones(3, dtype=torch.int64)}
    save_checkpoint(path, {"identity": "this", "weights": weights, "step": 7, "history": ["step", "1"]})
    content = path.read_bytes()
    passed_over = 0
    places = range(0, len(content), 3)
    for place in places:
        flipped(path, place)
        state = read_state(path, "this", cpu)
        passed_over += state is None
        if state is not None:
            assert (state["step"], state["history"]) == (7, ["step", "1"]), place
            assert all(torch.equal(state["weights"][name], weights[name]) for name in weights), place
        path.write_bytes(content)
    assert passed_over > len(places) / 2
    assert load_checkpoint(path, cpu)["step"] == 7


def test_a_finished_training_whose_file_has_changed_is_trained_again(
    prepared: Path, tmp_path: Path, undisturbed: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    train(prepared, tmp_path)
    flipped(tmp_path / "resume/finished.pt", 2000)
    assert train(prepared, tmp_path) == undisturbed
    assert "finished.pt: cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize("whole", ["cut", "flip"])
@pytest.mark.parametrize(
    "file",
    [
        "dataset/images.npy",
        "dataset/labels.npy",
        "dataset/groups.npy",
        "dataset/parts.npy",
        "dataset/images_checksums.npy",
        "dataset/manifest.json",
        "pca/tokenizer.safetensors",
        "pca/tokenizer.json",
    ],
)
def test_training_names_a_file_that_has_changed(file: str, whole: str, prepared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(prepared, tmp_path / "copy")
    path = copy / file
    if whole == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        flipped(path, path.stat().st_size // 2)
    blamed = "images.npy" if "images" in file and whole == "flip" else path.name
    with refused(blamed, "delete"):
        train(copy, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["latents.npy", "latents_checksums.npy", "tokenizer.safetensors"])
def test_training_on_latents_names_a_file_that_has_changed(name: str, prepared: Path, tmp_path: Path) -> None:
    conv = {"width": 8, "blocks": 1, "steps": 1, "batch": 8, "rate": 0.001}
    fit = tmp_path / "vae"
    stage = ConvolutionalStage(dim=16, convolutional=conv)
    folders = {"dataset": prepared / "dataset", "resume": tmp_path / "resume-vae", "out": fit}
    train_tokenizer(stage, seed=0, revision=1, **folders)
    flipped(fit / name, -5)
    row = STAGE.model_copy(update={"tokenizer": Tokenizer(kind="conv", dim=16)})
    out = tmp_path / "out"
    with refused("latents.npy" if "latents" in name else name, "damaged"):
        folders = {"dataset": prepared / "dataset", "tokenizer": fit, "resume": tmp_path / "resume", "out": out}
        pretrain(row, row="tiny", seed=0, revision=1, **folders)
    assert not out.exists()


def test_any_changed_byte_of_an_archive_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "correct.npz"
    arrays = {"0/linear": np.arange(40, dtype=np.uint8), "0/knn": np.arange(5)}
    np.savez(path, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    content = path.read_bytes()
    for place in range(0, len(content), 2):
        flipped(path, place, 0x11)
        try:
            found = read_arrays(path, arrays)
        except ValueError as error:
            assert str(path) in str(error) and len(str(error).splitlines()) == 1
        else:
            assert all(np.array_equal(found[name], arrays[name]) for name in arrays), place
        path.write_bytes(content)


def test_a_curve_is_not_drawn_from_a_history_that_has_changed(prepared: Path, tmp_path: Path) -> None:
    train(prepared, tmp_path)
    assert history_file(tmp_path / "out") == tmp_path / "out/history.csv"
    flipped(tmp_path / "out/history.csv", -5, 0x01)
    with refused("out/history.csv", "is damaged"):
        history_file(tmp_path / "out")


def test_a_damaged_result_is_no_line_of_a_table(prepared: Path, tmp_path: Path, told: Callable[..., str]) -> None:
    train(prepared, tmp_path)
    record = tmp_path / "out/run.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    said = told("cost", "--results", str(record), "--out", str(tmp_path / "cost"))
    assert f"{record}: is damaged or was edited" in said
    assert not (tmp_path / "cost.md").exists()


# ---------------------------------------------------------------------------------------------------------------------
# As large as ImageNet
# ---------------------------------------------------------------------------------------------------------------------


def test_a_quarter_of_a_terabyte_is_read_row_by_row(tmp_path: Path) -> None:
    """ImageNet's training images at 256 pixels: a file of holes, which takes no disk, read here and there."""
    path, shape = tmp_path / "train.npy", (1_281_167, 3, 256, 256)
    try:
        open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    except OSError as error:
        pytest.skip(f"this file system has no files so large: {error}")
    np.save(checksums_path(path), np.zeros(shape[0], np.uint64))
    code = f"""
import resource
from pathlib import Path
import numpy as np
from ldae.runtime.arrays import CheckedRows
rows = CheckedRows(Path({str(path)!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
for _ in range(20):
    assert not rows.take(rng.integers(len(rows), size=64)).any()
print(len(rows), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    images, megabytes = map(int, said.stdout.split())
    assert images == shape[0]
    assert megabytes < 160  # of 1280 images of 192 kB each, 252 MB, and 252 GB in all
    assert path.stat().st_blocks * 512 < MB


def test_checked_rows_and_their_sums_take_no_more_memory_than_a_piece(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = open_memmap(path, mode="w+", dtype=np.uint8, shape=(30_000, 100, 100))
    rows[::7] = 5
    del rows
    code = f"""
import resource
from pathlib import Path
import numpy as np
from ldae.runtime.arrays import CheckedRows, save_row_checksums
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_row_checksums(Path({str(path)!r}))
rows = CheckedRows(Path({str(path)!r}))
for start in range(0, len(rows), 500):
    rows[start : start + 500]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 160  # of 300 MB, gone through twice
    assert len(CheckedRows(path)) == 30_000
