"""Damage of every kind to files that a later stage reads: one line that names the file, and no number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from manifests import images_of

from ldae.data.prepared import Split
from ldae.parts.loading import open_run
from ldae.runtime.arrays import CheckedRows, checksums_path, open_array, read_arrays, row_checksums, save_row_checksums
from ldae.runtime.files import checksums, read_json, verified, write_json
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe
from ldae.study.base import Size
from ldae.study.recipes import Probing, Training
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import PretrainStage, ProbeStage


def flip_bit(path: Path, place: int) -> None:
    """Changes one bit of a file; places below 0 count from its end."""
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "train.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(20, 3, 16, 16)).astype(np.uint8))
    save_row_checksums(path)
    return path


def test_rows_that_are_whole_are_given_as_they_are(images: Path) -> None:
    checked = CheckedRows(images)
    np.testing.assert_array_equal(checked.take(np.array([7, 3])), np.load(images)[[7, 3]])
    np.testing.assert_array_equal(checked[5:9], np.load(images)[5:9])
    assert len(checked) == 20


@pytest.mark.parametrize("place", [-1, -768, -769, -5000])
def test_a_flipped_bit_is_found_in_its_row_and_in_no_other(place: int, images: Path) -> None:
    flip_bit(images, place)
    damaged = 20 - 1 - (-place - 1) // 768
    checked = CheckedRows(images)
    with pytest.raises(ValueError, match=rf"train\.npy: row {damaged} is damaged"):
        checked.take(np.arange(20))
    others = np.setdiff1d(np.arange(20), [damaged])
    assert len(checked.take(others)) == 19


def test_large_rows_are_read_by_themselves_and_compared_too(tmp_path: Path) -> None:
    path, rows = tmp_path / "train.npy", np.random.default_rng(0).integers(256, size=(6, 3, 200, 200)).astype(np.uint8)
    np.save(path, rows)
    save_row_checksums(path)
    checked = CheckedRows(path)
    np.testing.assert_array_equal(checked.take(np.array([4, 0, 5])), rows[[4, 0, 5]])
    flip_bit(path, -120_001)
    with pytest.raises(ValueError, match=r"train\.npy: row 4 is damaged"):
        checked.take(np.arange(6))
    assert len(checked.take(np.array([5, 3]))) == 2
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)  # a map would end this process
    with pytest.raises(ValueError, match=r"train\.npy: row 5 is damaged"):
        checked.take(np.array([3, 5]))


def test_rows_of_any_length_have_sums() -> None:
    rows = np.random.default_rng(0).integers(256, size=(4, 13)).astype(np.uint8)
    sums = row_checksums(rows)
    rows[2, 12] ^= 1
    assert (row_checksums(rows) != sums).tolist() == [False, False, True, False]


@pytest.mark.parametrize("size", [0, 10, 100, 1000, 15000])
def test_an_array_that_is_cut_short_is_named(size: int, images: Path) -> None:
    images.write_bytes(images.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"train\.npy: is damaged \(.*\); delete it and run again"):
        CheckedRows(images)


def test_checksums_of_another_array_are_refused(images: Path) -> None:
    np.save(checksums_path(images), np.zeros(19, np.uint64))
    with pytest.raises(ValueError, match=r"train\.npy: has 20 rows and 19 checksums"):
        CheckedRows(images)


def test_a_pickle_is_no_array(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"evil\.npy: is damaged"):
        open_array(tmp_path / "evil.npy")


@pytest.mark.parametrize("place", [40, -100])
def test_a_damaged_archive_is_named(place: int, tmp_path: Path) -> None:
    path = tmp_path / "correct.npz"
    np.savez(path, a=np.arange(1000), b=np.arange(5))
    assert read_arrays(path)["b"].tolist() == [0, 1, 2, 3, 4]
    flip_bit(path, 1000)
    with pytest.raises(ValueError, match=r"correct\.npz: is damaged"):
        read_arrays(path)
    path.write_bytes(path.read_bytes()[:place])
    with pytest.raises(ValueError, match=r"correct\.npz: is damaged"):
        read_arrays(path)


def test_a_record_that_says_something_else_than_was_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    write_json(path, {"top1": 0.5, "by": {16: 1, 8: 2}, "row": "σ"})
    assert read_json(path) == {"top1": 0.5, "by": {"16": 1, "8": 2}, "row": "σ"}
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(ValueError, match=r"probe\.json: is damaged or was edited"):
        read_json(path)


def test_a_file_is_intact_as_its_record_says(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"0123456789")
    sums = checksums(path)
    assert verified(path, sums) == path
    flip_bit(path, 5)
    with pytest.raises(ValueError, match="weights: is damaged: its SHA-256 differs"):
        verified(path, sums)


@pytest.fixture
def trained(prepared: Path, tmp_path: Path) -> Path:
    stage = PretrainStage(
        tokenizer=Tokenizer(dim=8),
        size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
        training=Training(steps=2, batch=16, rate=0.01, warmup=0.2),
    )
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca"}
    pretrain(stage, row="tiny", seed=0, revision=1, resume=tmp_path / "resume", out=tmp_path / "out", **folders)
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["model", "ema"])
def test_damaged_weights_are_never_used(name: str, trained: Path) -> None:
    flip_bit(trained / f"{name}.safetensors", -3)
    with pytest.raises(ValueError, match=rf"{name}\.safetensors: is damaged"):
        open_run(trained, name)


def test_a_damaged_run_leaves_no_probe(prepared: Path, trained: Path, tmp_path: Path) -> None:
    flip_bit(trained / "model.safetensors", 2000)
    probing = Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,))
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": trained}
    with pytest.raises(ValueError, match=r"model\.safetensors: is damaged"):
        probe(ProbeStage(probing=probing), row="tiny", revision=1, out=tmp_path / "probe", **folders)
    assert not (tmp_path / "probe").exists()


def test_a_split_is_read_through_its_checksums(prepared: Path) -> None:
    split = Split.open(prepared / "dataset", "val", seed=0)
    images, _ = split.batch(np.arange(24), torch.device("cpu"))
    np.testing.assert_array_equal(images, images_of(prepared / "dataset", "val"))
