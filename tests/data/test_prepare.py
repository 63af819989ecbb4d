"""Preparing images: what the arrays hold, whatever the number of processes and however the files were made."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from manifests import images_of
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ldae.stages.prepare as stage_module
from ldae.data.division import Division, SplitName
from ldae.data.sources import folder, photos
from ldae.data.sources.pixels import centre_crop, draw
from ldae.runtime.arrays import row_checksums
from ldae.runtime.files import read_json, sha256
from ldae.stages.prepare import most_broken, prepare
from ldae.study.scale import Dataset, Folder, Photos
from ldae.study.stage_specs import DatasetStage

SIZE = 16
NUMBERS = ["labels.npy", "groups.npy", "parts.npy"]
ARRAYS = ["images.npy", "images_checksums.npy", *NUMBERS]


def run(dataset: Dataset, out: Path, workers: int = 1) -> dict[str, Any]:
    """Prepares a data set and returns its manifest."""
    prepare(DatasetStage(dataset=dataset), out=out, revision=1, workers=workers)
    return described(out)


def described(out: Path) -> dict[str, Any]:
    """The manifest, less when and where it was made."""
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    assert manifest.pop("provenance")["seconds"] > 0
    return manifest


def some_photos(train: int = 50, val: int = 25, size: int = SIZE) -> Photos:
    return Photos(source="photos", size=size, train=train, val=val)


def crops(dataset: Photos, part: int = 0) -> NDArray[np.uint8]:
    """The crops of one part of the pool (N, 3, S, S); by default, with the lower side held out, for training."""
    source = photos.load(dataset)
    places = np.flatnonzero(source.parts == part).tolist()
    return np.stack([crop.pixels for crop in source.images.at(places) if crop.pixels is not None])


def some_folder(path: Path, val_fraction: float | None = None, **more: Any) -> Folder:
    return Folder(source="folder", path=str(path), size=SIZE, val_fraction=val_fraction, **more)


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (20, 24)) -> None:
    """Saves an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def class_tree(root: Path, counts: dict[str, int]) -> Path:
    """Class folders with this many images each."""
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i:04d}.png", colour=f"rgb({i % 256}, {i // 256}, 7)")
    return root


def split_tree(root: Path, train: int = 3, val: int = 2) -> Path:
    """`train/` and `val/` with the classes cat and dog."""
    class_tree(root / "train", {"cat": train, "dog": train})
    class_tree(root / "val", {"cat": val, "dog": val})
    return root


# ---------------------------------------------------------------------------------------------------------------------
# Both sources
# ---------------------------------------------------------------------------------------------------------------------


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree")
    datasets: dict[str, Dataset] = {"photos": some_photos(train=300), "folder": some_folder(tree)}
    for name, dataset in datasets.items():
        run(dataset, tmp_path / name / "one", workers=1)
        run(dataset, tmp_path / name / "two", workers=2)
        assert described(tmp_path / name / "one") == described(tmp_path / name / "two")
        for file in ARRAYS:
            assert (tmp_path / name / "one" / file).read_bytes() == (tmp_path / name / "two" / file).read_bytes()


def test_arrays_have_the_promised_form_and_nothing_else_is_left(tmp_path: Path) -> None:
    run(some_photos(train=50, val=25), tmp_path)
    count = 4 * (50 + 25)  # for each side that can be held out
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert images.shape == (count, 3, SIZE, SIZE)
    assert images.dtype == np.uint8
    assert images.flags.c_contiguous
    for name in NUMBERS:
        numbers = np.load(tmp_path / name)
        assert numbers.dtype == np.int64
        assert numbers.shape == (count,)
    assert {path.name for path in tmp_path.iterdir()} == {*ARRAYS, "manifest.json"}


def test_the_manifest_is_true(tmp_path: Path) -> None:
    manifest = run(some_photos(), tmp_path)
    assert (manifest["source"], manifest["size"], manifest["broken"]) == ("photos", SIZE, [])
    assert manifest["sha256"] == {file: sha256(tmp_path / file) for file in ARRAYS if file != "images.npy"}
    sums = np.load(tmp_path / "images_checksums.npy")
    np.testing.assert_array_equal(sums, row_checksums(np.load(tmp_path / "images.npy")))
    for split, seed in product(get_args(SplitName), range(3)):
        found = Counter(manifest["classes"][label] for label in Division.open(tmp_path, split, seed).labels)
        assert manifest["counts"][split] == {name: found[name] for name in manifest["classes"]}


def test_progress_is_told_in_plain_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ldae.runtime.progress.LINE_SECONDS", 0.0)
    prepare(DatasetStage(dataset=some_photos(train=300)), out=tmp_path, revision=1, workers=1)
    lines = capfd.readouterr().err.splitlines()
    assert (
        lines[0] == "325 images of 20 classes: 300 for training, 25 for validation, drawn from 1,300 anew for each seed"
    )
    assert lines[1].startswith("preparing: 128 of 1,300 images")
    assert "images/s" in lines[1] and lines[1].endswith("left")
    assert lines[-1].startswith("preparing: 1,300 of 1,300 images (100 %)")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")
@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_workers_die_with_a_parent_killed_while_they_start_or_work(tmp_path: Path, seconds: float) -> None:
    code = f"""
from pathlib import Path
from ldae.stages.prepare import prepare
from ldae.study.scale import Photos
from ldae.study.stage_specs import DatasetStage
dataset = Photos(source="photos", size=16, train=1_000_000, val=20)
prepare(DatasetStage(dataset=dataset), out=Path({str(tmp_path)!r}), revision=1, workers=2)
"""
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root})
    try:
        wait_until(lambda: len(living_children(parent.pid)) >= 3)  # two workers and multiprocessing's resource tracker
        time.sleep(seconds)
        children = living_children(parent.pid)
    finally:
        parent.kill()
        parent.wait()
    try:
        wait_until(lambda: not any(is_running(child) for child in children))
    finally:
        for child in filter(is_running, children):
            os.kill(child, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for a condition; fails when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def living_children(pid: int) -> list[int]:
    """The child processes of a process, started by any of its threads."""
    return [int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]


def is_running(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


NINE_CHUNKS = some_photos(train=200, val=80)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(NINE_CHUNKS, folder)
    return folder


@pytest.mark.parametrize("chunks", [1, 4, 7])
def test_a_killed_stage_goes_on_where_it_was(
    chunks: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill, filled = stage_module._fill, []

    def dying(chunk: Any) -> Any:
        if len(filled) == chunks:
            os._exit(0)
        filled.append(chunk.places[0])
        return fill(chunk)

    killed = get_context("fork").Process(target=_prepare_with, args=(dying, NINE_CHUNKS, tmp_path))
    killed.start()
    killed.join(60)
    monkeypatch.setattr(stage_module, "_fill", lambda chunk: filled.append(chunk.places[0]) or fill(chunk))
    parts = run(NINE_CHUNKS, tmp_path)
    assert len(filled) == 9 - chunks
    assert parts == described(undisturbed)
    for file in ARRAYS:
        assert (undisturbed / file).read_bytes() == (tmp_path / file).read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {*ARRAYS, "manifest.json"}


def _prepare_with(fill: Any, dataset: Dataset, out: Path) -> None:
    stage_module._fill = fill
    run(dataset, out)


def test_a_stage_killed_after_broken_images_were_left_out_goes_on(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree", train=200, val=10)
    (tree / "train" / "cat" / "0001.png").write_bytes(b"")
    whole = run(some_folder(tree), tmp_path / "whole")
    fill = stage_module._fill

    def dying(chunk: Any) -> Any:
        return os._exit(0) if chunk.places[0] else fill(chunk)

    killed = get_context("fork").Process(target=_prepare_with, args=(dying, some_folder(tree), tmp_path / "parts"))
    killed.start()
    killed.join(60)
    assert run(some_folder(tree), tmp_path / "parts") == whole
    for file in ARRAYS:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_files_that_were_exchanged_meanwhile_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = split_tree(tmp_path / "tree", train=200, val=10)
    fill = stage_module._fill

    def failing(chunk: Any) -> Any:
        if chunk.places[0] >= 128:
            raise OSError("the disk is gone")
        return fill(chunk)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is gone"):
        patch.setattr(stage_module, "_fill", failing)
        run(some_folder(tree), tmp_path / "out")
    assert (tmp_path / "out/.images.npy.journal").exists()
    (tree / "train" / "cat" / "0001.png").rename(tree / "train" / "dog" / "9999.png")
    run(some_folder(tree), tmp_path / "out")
    fresh = run(some_folder(tree), tmp_path / "fresh")
    assert described(tmp_path / "out") == fresh
    for file in ARRAYS:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "fresh" / file).read_bytes()


def test_an_array_that_was_begun_with_another_configuration_is_not_gone_on_with(tmp_path: Path) -> None:
    whole = run(some_photos(), tmp_path / "whole")
    out = tmp_path / "parts"
    out.mkdir()
    (out / ".images.npy.partial").write_bytes(b"something else")
    (out / ".images.npy.journal").write_text('{"dataset": "another"}\n[1, 2, 3]\n')
    assert run(some_photos(), out) == whole


def test_a_disk_that_is_too_small_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(stage_module, "_fill", None)
    with pytest.raises(OSError, match=r"No space left on device: .*images\.npy"):
        run(some_photos(), tmp_path)
    assert not list(tmp_path.glob("*.npy"))


def test_a_failed_run_takes_no_earlier_result_away(tmp_path: Path) -> None:
    run(some_photos(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    tree = split_tree(tmp_path.parent / "tree")
    for name in ("cat/0000", "dog/0001"):
        (tree / "val" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="broken"):
        run(some_folder(tree), tmp_path)
    (tmp_path / "broken.csv").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------------------------------------------------------------
# Photos
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", photos.SIDES)
@pytest.mark.parametrize("size", [(384, 191), (1411, 1411), (300, 400), (40, 400)])
def test_windows_of_the_two_splits_share_no_pixel(size: tuple[int, int], side: photos.Side) -> None:
    width, height = size
    rng = np.random.default_rng(0)
    covered = {split: np.zeros((height, width), bool) for split in ("train", "val")}
    for split, pixels in covered.items():
        part = photos.region(split, side, *size)
        across, down = part.right - part.left, part.bottom - part.top
        windows = [photos.draw_window(part, rng) for _ in range(2000)]
        lengths = {window.right - window.left for window in windows}
        assert min(lengths) == min(48, across, down)
        assert max(lengths) == min(96, across, down)
        for window in windows:
            assert window.right - window.left == window.bottom - window.top
            pixels[window.top : window.bottom, window.left : window.right] = True
        lefts, tops, rights, bottoms = zip(*windows, strict=True)
        assert (min(lefts), min(tops), max(rights), max(bottoms)) == part
    assert not (covered["train"] & covered["val"]).any()
    outermost = {"bottom": np.s_[-1], "top": np.s_[0], "left": np.s_[:, 0], "right": np.s_[:, -1]}[side]
    assert covered["val"][outermost].any() and not covered["train"][outermost].any()
    held_out, whole = (down, height) if side in ("bottom", "top") else (across, width)  # of validation, the last
    assert held_out == pytest.approx(0.3 * whole, abs=1)


@pytest.mark.parametrize("split", get_args(SplitName))
@pytest.mark.parametrize("seed", range(3))
def test_crops_of_a_split_depend_on_its_part_of_the_photographs_alone(
    seed: int, split: SplitName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, whole_photograph = some_photos(), photos.luminance
    run(dataset, tmp_path)
    division = Division.open(tmp_path, split, seed)
    sides = dict(zip(division.labels.tolist(), np.load(tmp_path / "parts.npy")[division.index] // 2, strict=True))

    def part_alone(label: int) -> Image.Image:
        photograph = whole_photograph(label)
        part = photos.region(split, photos.SIDES[sides[label]], *photograph.size)
        black = Image.new("L", photograph.size)
        black.paste(photograph.crop(part), part)
        return black

    monkeypatch.setattr(photos, "luminance", part_alone)
    drawn = [crop.pixels for crop in photos.load(dataset).images.at(division.index.tolist())]
    np.testing.assert_array_equal(drawn, images_of(tmp_path, split, seed))


def test_photographs_are_balanced_and_their_groups_stay_apart(tmp_path: Path) -> None:
    manifest = run(some_photos(train=110, val=45), tmp_path)
    assert len(manifest["classes"]) == 20
    for split, seed in product(get_args(SplitName), range(3)):
        counts = manifest["counts"][split].values()
        assert max(counts) - min(counts) <= 1
        division = Division.open(tmp_path, split, seed)
        groups, labels = division.groups.tolist(), division.labels.tolist()
        assert len(set(zip(groups, labels, strict=True))) == len(set(groups))  # no group has two photographs
        np.testing.assert_array_equal(labels, np.arange(len(labels)) % 20)


def test_colour_does_not_tell_the_photograph() -> None:
    dataset = some_photos(train=3000, val=2000)
    train, val = crops(dataset, part=0), crops(dataset, part=1)

    def accuracy(features: Callable[[NDArray[np.uint8]], NDArray[np.float64]]) -> float:
        classifier = make_pipeline(StandardScaler(), LogisticRegression())
        classifier.fit(features(train), np.arange(len(train)) % 20)
        return float(classifier.score(features(val), np.arange(len(val)) % 20))

    assert accuracy(lambda images: images.mean((2, 3))) < 2 / 20
    assert accuracy(lambda images: np.hstack([images.mean((2, 3)), images.std((2, 3))])) < 2 / 20


def test_crops_keep_structure() -> None:
    greys = crops(some_photos(train=200)).mean(1)
    assert (greys.std((1, 2)) > 5).all()
    assert len(np.unique(greys.reshape(len(greys), -1), axis=0)) == len(greys)


def test_a_missing_photograph_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "PHOTOGRAPHS", [("scikit-image", "skimage/data/gone.png")])
    with pytest.raises(ValueError, match=rf"^scikit-image {version('scikit-image')} .*skimage/data/gone\.png.*$"):
        photos.load(some_photos())
    monkeypatch.setattr(photos, "PHOTOGRAPHS", [("no-such-package", "gone.png")])
    with pytest.raises(ValueError, match=r"^no-such-package is not installed.*gone\.png$"):
        photos.load(some_photos())


# ---------------------------------------------------------------------------------------------------------------------
# Folder: layouts
# ---------------------------------------------------------------------------------------------------------------------


def test_a_tree_with_train_and_val_is_taken_as_it_is(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree", train=3, val=2)
    picture(tree / "train" / "cat" / "deeper" / "UPPER.JPEG", colour="white")
    picture(tree / "train" / "cat" / ".hidden.png")
    (tree / "train" / "cat" / "notes.txt").write_text("no image")
    manifest = run(some_folder(tree), tmp_path / "out")
    assert manifest["classes"] == ["cat", "dog"]
    assert manifest["counts"] == {"train": {"cat": 4, "dog": 3}, "val": {"cat": 2, "dog": 2}}
    np.testing.assert_array_equal(
        images_of(tmp_path / "out", "train")[:, 0, 0, 0],
        [0, 1, 2, 255, 0, 1, 2],  # by class, then by path
    )
    for seed in range(3):
        division = Division.open(tmp_path / "out", "train", seed)
        np.testing.assert_array_equal(division.labels, [0, 0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(division.groups, range(7))


def test_one_tree_is_split_within_each_class(tmp_path: Path) -> None:
    tree = class_tree(tmp_path / "tree", {"many": 20, "two": 2})
    manifest = run(some_folder(tree, val_fraction=0.25), tmp_path / "out")
    assert manifest["counts"] == {"train": {"many": 15, "two": 1}, "val": {"many": 5, "two": 1}}
    for seed in range(5):
        labels = Division.open(tmp_path / "out", "val", seed).labels
        assert np.bincount(labels).tolist() == [5, 1]


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    split_tree(tmp_path / "tree")
    assert folder.load(some_folder(Path("~/tree"))).classes == ("cat", "dog")


def fail(dataset: Folder) -> str:
    """The error with which a data set is refused, which has one line."""
    with pytest.raises(ValueError) as caught:
        folder.load(dataset)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_layout_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree")
    assert "remove dataset.val_fraction" in fail(some_folder(tree, val_fraction=0.1))
    assert "write dataset.val_fraction" in fail(some_folder(tree / "train"))
    assert str(tmp_path / "nowhere") in fail(some_folder(tmp_path / "nowhere"))

    picture(tree / "train" / "bird" / "0.png")
    assert "only in train/: bird; only in val/: none" in fail(some_folder(tree))
    (tree / "val" / "bird").mkdir()
    assert str(tree / "val" / "bird") in fail(some_folder(tree))

    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in fail(some_folder(tmp_path / "empty", val_fraction=0.1))
    lonely = class_tree(tmp_path / "lonely", {"cat": 2, "dog": 1})
    assert str(lonely / "dog") in fail(some_folder(lonely, val_fraction=0.1))


# ---------------------------------------------------------------------------------------------------------------------
# Folder: decoding
# ---------------------------------------------------------------------------------------------------------------------


def decoded(image: Image.Image, form: str = "png", **options: Any) -> NDArray[np.uint8]:
    """Saves and decodes an image, without a resize if it is square: rows, columns, channels."""
    file = io.BytesIO()
    image.save(file, form, **options)
    pixels = draw(file.getvalue(), SIZE).pixels
    assert pixels is not None
    return pixels.transpose(1, 2, 0)


def halves(mode: str, left: Any, right: Any) -> Image.Image:
    """A square image of two halves."""
    image = Image.new(mode, (SIZE, SIZE), left)
    image.paste(right, (SIZE // 2, 0, SIZE, SIZE))
    return image


def ends(pixels: NDArray[np.uint8]) -> list[list[int]]:
    """The colours of the upper left and right corners."""
    return [pixels[0, 0].tolist(), pixels[0, -1].tolist()]


@pytest.mark.parametrize("form", ["png", "webp", "bmp", "tiff"])
def test_rgb_is_kept(form: str) -> None:
    options = {"lossless": True} if form == "webp" else {}
    image = halves("RGB", (255, 0, 10), (0, 200, 30))
    np.testing.assert_array_equal(decoded(image, form, **options), np.asarray(image))


def test_grey_and_one_bit() -> None:
    assert ends(decoded(halves("L", 40, 250))) == [[40] * 3, [250] * 3]
    assert ends(decoded(halves("1", 0, 1))) == [[0] * 3, [255] * 3]


def test_transparency_is_laid_on_white() -> None:
    assert ends(decoded(halves("RGBA", (9, 8, 7, 255), (0, 0, 0, 0)))) == [[9, 8, 7], [255] * 3]
    assert ends(decoded(halves("LA", (100, 255), (0, 51)))) == [[100] * 3, [204] * 3]
    assert ends(decoded(halves("RGB", (9, 8, 7), (1, 2, 3)), transparency=(1, 2, 3))) == [[9, 8, 7], [255] * 3]
    palette = halves("P", 0, 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert ends(decoded(palette)) == [[10, 20, 30], [40, 50, 60]]
    assert ends(decoded(palette, transparency=1)) == [[10, 20, 30], [255] * 3]


def test_cmyk_jpeg() -> None:
    pixels = decoded(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 255)), "jpeg", quality=95)
    np.testing.assert_allclose(ends(pixels), [[255, 0, 0], [0, 0, 0]], atol=8)


@pytest.mark.parametrize(("form", "dtype"), [("png", "<u2"), ("tiff", "<u2"), ("tiff", ">u2"), ("tiff", "<i4")])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str, dtype: str) -> None:
    values = np.full((SIZE, SIZE), 257 * 60, dtype=dtype)
    values[:, SIZE // 2 :] = 257 * 200
    assert ends(decoded(Image.fromarray(values), form)) == [[60] * 3, [200] * 3]


def test_more_than_sixteen_bits_are_scaled_by_their_largest() -> None:
    values = np.full((SIZE, SIZE), 255_000_000, dtype=np.int32)
    values[:, SIZE // 2 :] = 80_000_000
    assert ends(decoded(Image.fromarray(values), "tiff")) == [[255] * 3, [80] * 3]


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_the_orientation_of_a_camera_is_applied(form: str) -> None:
    upright = halves("RGB", "black", "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    np.testing.assert_allclose(decoded(turned, form, exif=exif), np.asarray(upright), atol=4)


@pytest.mark.parametrize("size", [(100, 70), (16, 90), (33, 31), (5, 9)])
def test_the_crop_is_that_of_adm(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    expected = image  # as in guided-diffusion's image_datasets.py, center_crop_arr
    while min(expected.size) >= 2 * SIZE:
        expected = expected.resize((expected.width // 2, expected.height // 2), resample=Image.Resampling.BOX)
    scale = SIZE / min(expected.size)
    scaled = (round(expected.width * scale), round(expected.height * scale))
    array = np.array(expected.resize(scaled, resample=Image.Resampling.BICUBIC))
    y, x = (array.shape[0] - SIZE) // 2, (array.shape[1] - SIZE) // 2
    np.testing.assert_array_equal(centre_crop(image, SIZE), array[y : y + SIZE, x : x + SIZE])


# ---------------------------------------------------------------------------------------------------------------------
# Folder: broken images
# ---------------------------------------------------------------------------------------------------------------------


def test_a_few_broken_images_are_left_out_and_reported(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree", train=150, val=2)
    (tree / "train" / "cat" / "0003.png").write_bytes(b"")
    (tree / "train" / "dog" / "0005.png").write_bytes(b"no image at all")
    (tree / "train" / "dog" / "0006.png").write_bytes((tree / "train" / "dog" / "0006.png").read_bytes()[:60])
    manifest = run(some_folder(tree), tmp_path / "out")
    assert {broken["path"]: broken["reason"] for broken in manifest["broken"]} == {
        "train/cat/0003.png": "is empty",
        "train/dog/0005.png": "is not an image that Pillow can read",
        "train/dog/0006.png": "OSError: image file is truncated",
    }
    assert manifest["counts"]["train"] == {"cat": 149, "dog": 148}
    images, division = images_of(tmp_path / "out", "train"), Division.open(tmp_path / "out", "train", seed=0)
    kept = {"cat": [i for i in range(150) if i != 3], "dog": [i for i in range(150) if i not in (5, 6)]}
    np.testing.assert_array_equal(images[:, 0, 0, 0], kept["cat"] + kept["dog"])
    np.testing.assert_array_equal(division.labels, [0] * 149 + [1] * 148)
    np.testing.assert_array_equal(division.groups, range(297))
    assert str(tmp_path) not in json.dumps(manifest | {"lineage": None})


def listed(path: Path) -> list[list[str]]:
    """The rows of a list of broken images."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_many_broken_images_end_the_stage_and_are_all_listed(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree", train=40, val=5)
    broken = [f"train/cat/{i:04d}.png" for i in range(9)] + ["val/dog/0001.png", "val/dog/0002.png"]
    for name in broken:
        (tree / name).write_bytes(b"")
    message = (
        rf"^train: 9 of 80 images are broken, too many; the first is train/cat/0000\.png: is empty; "
        rf"{tmp_path}/out/broken\.csv lists 11; repair or remove them, or write broken: allow next to path"
    )
    with pytest.raises(ValueError, match=message):
        run(some_folder(tree), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["broken.csv"]
    assert listed(tmp_path / "out/broken.csv") == [["path", "reason"], *([name, "is empty"] for name in broken)]
    manifest = run(some_folder(tree, broken="allow"), tmp_path / "out")
    assert [image["path"] for image in manifest["broken"]] == broken
    assert manifest["counts"] == {"train": {"cat": 31, "dog": 40}, "val": {"cat": 5, "dog": 3}}
    for name in broken:
        picture(tree / name)
    run(some_folder(tree), tmp_path / "out")
    assert not (tmp_path / "out/broken.csv").exists()


@pytest.mark.parametrize(
    ("images", "most"), [(2, 1), (20, 2), (60, 6), (100, 10), (900, 10), (2000, 20), (10**6, 10**4)]
)
def test_a_small_data_set_may_have_a_few_broken_images(images: int, most: int) -> None:
    assert int(most_broken(images)) == most


def test_one_broken_image_of_a_few_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = split_tree(tmp_path / "tree", train=3, val=2)
    (tree / "train" / "cat" / "0002.png").unlink()
    (tree / "train" / "cat" / "0002.png").symlink_to("nowhere.png")
    manifest = run(some_folder(tree), tmp_path / "out")
    assert manifest["counts"]["train"] == {"cat": 2, "dog": 3}
    said = f"it is train/cat/0002.png: is a dangling link; {tmp_path}/out/broken.csv lists 1"
    assert f"train: 1 of 6 images is broken and left out; {said}" in capfd.readouterr().err.splitlines()


def test_names_that_are_no_text_are_listed_in_one_line_each(tmp_path: Path) -> None:
    tree = split_tree(tmp_path / "tree", train=30, val=2)
    names = [b"new\nline.png", b"\xff\xfe.png", '"quotes", ä 草.png'.encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tree / "train/cat") + b"/" + name)).write_bytes(b"")
    broken = [image["path"] for image in run(some_folder(tree), tmp_path / "out")["broken"]]
    named = ('"quotes", ä 草.png', "\\xff\\xfe.png", "new\\nline.png")
    assert sorted(broken) == [f"train/cat/{name}" for name in named]
    assert [path for path, _ in listed(tmp_path / "out/broken.csv")[1:]] == broken


def test_a_decompression_bomb_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = split_tree(tmp_path / "tree")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="train/cat/0000.png: DecompressionBombError"):
        run(some_folder(tree), tmp_path / "out")
