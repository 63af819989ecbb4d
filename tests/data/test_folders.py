"""What a user's folder holds: which folders are splits or classes, what is read, and what is said to be left out."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

import ldae.stages.prepare as stage_module
from ldae.data.sources import folder, tree
from ldae.data.sources.opening import sizes
from ldae.data.sources.pixels import white_above
from ldae.runtime.files import read_json
from ldae.stages.prepare import prepare
from ldae.study.scale import Folder
from ldae.study.stage_specs import DatasetStage

SIZE = 16
COUNTS = {"train": 3, "val": 2, "test": 1}  # pictures of a class


def own(root: Path, **more: Any) -> Folder:
    return Folder(source="folder", path=str(root), size=SIZE, **more)


def run(dataset: Folder, out: Path, workers: int = 1) -> dict[str, Any]:
    """Prepares a data set and returns its manifest."""
    prepare(DatasetStage(dataset=dataset), out=out, revision=1, workers=workers)
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    return manifest | {"provenance": None}


def picture(path: Path) -> Path:
    """Saves a picture that no other is equal to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(os.fsencode(path))).integers(256, size=(20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def splits(root: Path, **names: str) -> Path:
    """Splits with two classes; `train="Training"` names the folder of one."""
    for split, name in names.items():
        for label in ("cat", "dog"):
            for number in range(COUNTS[split]):
                picture(root / name / label / f"{number}.png")
    return root


def classes(root: Path, num: int = 4, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for name in names:
        for number in range(num):
            picture(root / name / f"{number}.png")
    return root


def refusal(dataset: Folder) -> str:
    with pytest.raises(ValueError) as caught:
        folder.load(dataset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Splits
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "VALID"])
@pytest.mark.parametrize("train", ["train", "Train", "training"])
def test_splits_are_used_as_they_are_and_a_further_one_is_left_out(
    train: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = splits(tmp_path / "tree", train=train, val=name, test="test")
    manifest = run(own(root), tmp_path / "out")
    assert manifest["counts"] == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 2, "dog": 2}}
    assert manifest["left_out"] == {"folders": ["test"]}
    first = capfd.readouterr().err.splitlines()[0]
    assert first == "10 images of 2 classes: 6 for training, 4 for validation; left out: the folder test"
    assert "remove dataset.val_fraction" in refusal(own(root, val_fraction=0.1))


@pytest.mark.parametrize("fraction", [None, 0.2])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "TEST"), ("Training", "Testing")])
def test_train_and_test_alone_are_no_classes_but_can_be_the_splits(
    train: str, test: str, fraction: float | None, tmp_path: Path
) -> None:
    root = splits(tmp_path, train=train, val=test)
    said = refusal(own(root, val_fraction=fraction))
    assert f"has {train}/ and {test}/ but no val/; write val: {test} next to path in the scale file" in said
    source = folder.load(own(root, val=test))
    assert sizes(source) == (6, 4)


def test_the_folder_of_the_validation_images_can_be_any(tmp_path: Path) -> None:
    root = splits(tmp_path, train="a", val="b")
    assert "a, b hold the same folders (cat, dog), so they are splits" in refusal(own(root, val_fraction=0.5))
    assert sizes(folder.load(own(root, val="b"))) == (6, 4)
    assert "has no folder 'c', which dataset.val names; it has a, b" in refusal(own(root, val="c"))
    assert "remove dataset.val_fraction" in refusal(own(root, val="b", val_fraction=0.1))
    splits(root, test="c")
    assert "a/ and c/ may each be the split for training" in refusal(own(root, val="b"))
    assert "remove dataset.val_fraction" in refusal(
        own(splits(tmp_path / "x", train="train", val="b"), val="b", val_fraction=0.1)
    )


def test_folders_that_may_each_be_the_split_are_named(tmp_path: Path) -> None:
    root = splits(tmp_path, train="train", val="val", test="validation")
    assert "val/ and validation/ may each be the split for validation" in refusal(own(root))
    assert sizes(folder.load(own(root, val="val"))) == (6, 4)


def test_splits_below_each_class_are_named(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        classes(tmp_path / label, names=("train", "test"))
    assert "each of cat, dog holds test, train; put the splits above the classes" in refusal(
        own(tmp_path, val_fraction=0.5)
    )


def test_folders_within_classes_are_read_where_classes_differ(tmp_path: Path) -> None:
    classes(tmp_path / "cat", names=("indoors", "outdoors"))
    classes(tmp_path / "dog", names=("outdoors",))
    source = folder.load(own(tmp_path, val_fraction=0.25))
    assert np.bincount(source.images.labels).tolist() == [8, 4]


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    root = classes(tmp_path, names=("bus", "car", "train"))
    assert folder.load(own(root, val_fraction=0.25)).classes == ("bus", "car", "train")


def test_classes_one_folder_deeper_are_pointed_at(tmp_path: Path) -> None:
    classes(tmp_path / "images")
    said = refusal(own(tmp_path, val_fraction=0.25))
    assert "needs two class folders at least, has 1; the folders in images/ may be the classes" in said


def test_one_class_may_be_spelt_in_two_ways_of_unicode(tmp_path: Path) -> None:
    for split, name in (("train", "Mu\u0308nze"), ("val", "M\u00fcnze")):
        classes(tmp_path / split, names=(name, "note"))
    assert folder.load(own(tmp_path)).classes == ("M\u00fcnze", "note")
    classes(tmp_path / "train", names=("M\u00fcnze",))
    assert "has two class folders that are called Münze" in refusal(own(tmp_path))


def test_names_of_classes_are_one_line_of_text(tmp_path: Path) -> None:
    names = (b"new\nline", b"\xff\xfe", "ä 'quoted' \"草\"".encode(), b"n" * 200)
    for name in names:
        for number in range(2):
            picture(tmp_path / os.fsdecode(name) / f"{number}.png")
    manifest = run(own(tmp_path, val_fraction=0.5), tmp_path.parent / "out")
    assert manifest["classes"] == ["\\xff\\xfe", "new\\nline", "n" * 200, "ä 'quoted' \"草\""]
    assert all(count == 1 for counts in manifest["counts"].values() for count in counts.values())


# ---------------------------------------------------------------------------------------------------------------------
# What is left out
# ---------------------------------------------------------------------------------------------------------------------

HIDDEN = (
    ".git",
    "__MACOSX",
    "@eaDir",
    ".thumbnails",
    "$RECYCLE.BIN",
    "lost+found",
    "#recycle",
    "System Volume Information",
)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_and_system_folders_hold_no_pictures_at_any_depth(name: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "tree")
    for place in ("", "cat", "cat/deeper"):
        picture(root / place / name / "cat" / "0.png")
    picture(root / "cat/deeper/1.png")
    source = folder.load(own(root, val_fraction=0.25))
    assert source.classes == ("cat", "dog")
    assert len(source.images.labels) == 9
    assert source.left_out.to_json() == {"hidden": 3}
    assert source.left_out.in_words() == "; left out: 3 hidden or system files and folders"


def test_hidden_and_system_files_are_no_pictures(tmp_path: Path) -> None:
    root = classes(tmp_path / "tree")
    for name in ("cat/._0.png", "cat/.hidden.jpg", "cat/Thumbs.db", "dog/desktop.ini", ".DS_Store"):
        picture(root / "x.png").rename(root / name)
    assert folder.load(own(root, val_fraction=0.25)).left_out.to_json() == {"hidden": 5}


def test_files_of_other_kinds_are_counted_by_their_endings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = classes(tmp_path / "tree")
    others = (
        "cat/a.heic",
        "cat/b.HEIC",
        "dog/c.heic",
        "notes.txt",
        "dog/README",
        "cat/x.a b c",
        "cat/clip.mp4",
        "dog/a.eps",
    )
    for name in others:
        (root / name).write_text("something else")
    manifest = run(own(root, val_fraction=0.25), tmp_path / "out")
    endings = {".eps": 1, ".heic": 3, ".mp4": 1, ".txt": 1, "none": 1, "other": 1}
    assert manifest["left_out"] == {"endings": endings}
    first = capfd.readouterr().err.splitlines()[0]
    assert first.endswith("left out: 8 files of other kinds (.eps 1, .heic 3, .mp4 1, .txt 1, none 1, other 1)")


def test_very_many_endings_are_not_all_named(tmp_path: Path) -> None:
    root = classes(tmp_path)
    for number in range(30):
        (root / f"cat/file.x{number}").write_text("")
    endings = folder.load(own(root, val_fraction=0.25)).left_out.to_json()["endings"]
    assert (len(endings), endings["other"], sum(endings.values())) == (21, 10, 30)


def test_a_plugin_of_pillow_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def register() -> None:
        Image.register_extension("PNG", ".heic")

    monkeypatch.setattr(Image, "EXTENSION", dict(Image.EXTENSION))
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    for known in (tree.formats, tree.endings):
        monkeypatch.setattr(tree, known.__name__, cache(known.__wrapped__))
    root = classes(tmp_path)
    picture(root / "cat/a.png").rename(root / "cat/a.heic")
    assert folder.load(own(root, val_fraction=0.25)).left_out.to_json() == {}


def test_what_is_no_file_is_left_out_and_not_waited_for(tmp_path: Path) -> None:
    root = classes(tmp_path)
    os.mkfifo(root / "cat/pipe.png")
    (root / "cat/folder.jpg").mkdir()
    picture(root / "cat/folder.jpg/0.png")
    source = folder.load(own(root, val_fraction=0.25))
    assert source.left_out.to_json() == {"special": 1}
    assert len(source.images.labels) == 9


def test_nothing_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    assert "needs two class folders at least, has 0" in refusal(own(tmp_path, val_fraction=0.1))
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.heic").write_text("")
    said = refusal(own(tmp_path, val_fraction=0.1))
    assert f"{tmp_path}/cat: has no images" in said
    assert "left out: 1 file of other kinds (.heic 1)" in said


# ---------------------------------------------------------------------------------------------------------------------
# Links
# ---------------------------------------------------------------------------------------------------------------------


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    elsewhere = classes(tmp_path / "elsewhere")
    root = tmp_path / "tree"
    (root / "dog").mkdir(parents=True)
    (root / "cat").symlink_to(elsewhere / "cat")
    (root / "dog/more").symlink_to(elsewhere / "dog")
    (root / "dog/one.png").symlink_to(picture(elsewhere / "one.png"))
    source = folder.load(own(root, val_fraction=0.25))
    assert len(source.images.labels) == 9


Link = Callable[[Path], object]
CIRCLES: dict[str, Link] = {
    "a class in itself": lambda root: (root / "cat/loop").symlink_to(root / "cat"),
    "all in a class": lambda root: (root / "cat/loop").symlink_to(root),
    "all beside the classes": lambda root: (root / "loop").symlink_to(root),
    "deeper": lambda root: ((root / "cat/a/b").mkdir(parents=True), (root / "cat/a/b/loop").symlink_to(root / "cat/a")),
    "the same folder twice": lambda root: (
        picture(root / "cat/a/0.png").rename(root / "cat/a/9.png"),
        (root / "cat/a/9.png").unlink(),
        (root / "cat/again").symlink_to(root / "cat/a"),
    ),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_links_that_lead_in_a_circle_are_left_out(name: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "tree")
    CIRCLES[name](root)
    source = folder.load(own(root, val_fraction=0.25))
    assert source.left_out.to_json() == {"circles": 1}
    assert source.classes == ("cat", "dog")
    assert len(source.images.labels) == 8


def test_a_folder_that_may_not_be_listed_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = classes(tmp_path)
    (root / "cat/deeper").mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == "deeper":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(tree.os, "scandir", refusing)
    with pytest.raises(PermissionError, match="deeper"):
        folder.load(own(root, val_fraction=0.25))


# ---------------------------------------------------------------------------------------------------------------------
# Files of the same content in both splits
# ---------------------------------------------------------------------------------------------------------------------


def test_the_same_files_in_both_splits_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = splits(tmp_path / "tree", train="train", val="val")
    assert run(own(root), tmp_path / "out")["in_both"] == {"count": 0, "pairs": []}
    shutil.copy(root / "train/dog/1.png", root / "val/dog/copy.png")
    for split in ("train", "val"):
        (root / split / "cat/broken.png").write_bytes(b"the same")
    capfd.readouterr()
    manifest = run(own(root, broken="allow"), tmp_path / "out")
    assert manifest["in_both"] == {"count": 1, "pairs": [["train/dog/1.png", "val/dog/copy.png"]]}
    warning = (
        "warning: 1 of 6 validation images are training images too; the first is val/dog/copy.png, the same file as"
    )
    assert f"{warning} train/dog/1.png; " in capfd.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of files
# ---------------------------------------------------------------------------------------------------------------------

FORMS = {
    ".gif": "gif",
    ".bmp": "bmp",
    ".tiff": "tiff",
    ".ppm": "ppm",
    ".tga": "tga",
    ".jp2": "jpeg2000",
    ".jfif": "jpeg",
}
FORMS |= {".webp": "webp", ".avif": "avif", ".ico": "ico", ".APNG": "png"}


@pytest.mark.parametrize("ending", FORMS)
def test_what_pillow_decodes_is_read(ending: str, tmp_path: Path) -> None:
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow decodes no AVIF")
    root = classes(tmp_path / "tree")
    Image.new("RGB", (20, 20), "red").save(root / f"cat/red{ending}", FORMS[ending])
    manifest = run(own(root, val_fraction=0.1), tmp_path / "out")
    assert (manifest["left_out"], manifest["broken"]) == ({}, [])
    images = np.load(tmp_path / "out/images.npy")
    assert (np.abs(images.mean((2, 3)) - [254, 0, 0]) < 12).all(1).any()


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    root = classes(tmp_path / "tree", num=2)
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(root / "cat/0.gif", save_all=True, append_images=frames[1:])
    source = folder.load(own(root, val_fraction=0.1))
    drawn = dict(zip(source.images.names, source.images, strict=True))
    np.testing.assert_allclose(drawn["cat/0.gif"].pixels.mean((1, 2)), [255, 0, 0], atol=3)  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------------------------------------------
# White
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "white"),
    [
        (0.0, 1),
        (1.0, 1),
        (1.3, 1.3),
        (2, 255),
        (255, 255),
        (256, 511),
        (4000, 4095),
        (4095, 4095),
        (65535, 65535),
        (70000, 70000),
    ],
)
def test_the_white_above_a_value(largest: float, white: float) -> None:
    assert white_above(largest) == white


def deep(root: Path, dtype: str, white: float, ending: str = "png") -> Path:
    """Grey ramps of so many bits, in a container that has more; the brightest is as bright as white."""
    for place, label in enumerate(("dark", "light")):
        for number in range(40):
            ramp = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE) * (place + 1) / 2 * (number + 1) / 40
            path = root / label / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((ramp * white).astype(dtype)).save(path)
    return root


CONTAINERS = {
    "12 bits in a 16-bit PNG": ("<u2", 4095, "png"),
    "10 bits in a 16-bit TIFF": ("<u2", 1023, "tiff"),
    "8 bits in a 32-bit TIFF": ("<i4", 255, "tiff"),
    "16 bits in a 16-bit PNG": ("<u2", 65535, "png"),
    "floating point up to 1": ("<f4", 1, "tiff"),
    "floating point up to 255": ("<f4", 255, "tiff"),
}


def brightest(out: Path) -> NDArray[np.int64]:
    """The brightest value of each picture, sorted."""
    images = np.load(out / "images.npy")
    values: NDArray[np.int64] = np.sort(images.max((1, 2, 3))).astype(np.int64)
    return values


@pytest.mark.parametrize(("name", "workers"), [*((name, 1) for name in CONTAINERS), ("12 bits in a 16-bit PNG", 2)])
def test_few_bits_in_a_wide_container_are_scaled_alike_in_all_pictures(name: str, workers: int, tmp_path: Path) -> None:
    dtype, white, ending = CONTAINERS[name]
    root = deep(tmp_path / "tree", dtype, white, ending)
    (root / "dark/broken.png").write_bytes(b"")
    manifest = run(own(root, val_fraction=0.25), tmp_path / "out", workers)
    assert manifest["white"] == {"level": white, "measured": True, "largest": pytest.approx(white), "images": 80}
    expected = np.sort([255 * (place + 1) / 2 * (number + 1) / 40 for place in (0, 1) for number in range(40)])
    np.testing.assert_allclose(brightest(tmp_path / "out"), expected, atol=1)
    image = max(np.load(tmp_path / "out/images.npy"), key=np.max)
    assert len(np.unique(image)) > 200  # levels of grey


def test_the_white_can_be_given(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = deep(tmp_path / "tree", "<u2", 2000)
    manifest = run(own(root, val_fraction=0.25, white=4000), tmp_path / "out")
    assert manifest["white"] == {"level": 4000, "measured": False, "largest": 2000, "images": 80}
    assert brightest(tmp_path / "out").max() == 128
    said = "80 grey images of more than 8 bits: white is 4000, as dataset.white says (their largest value is 2000)"
    assert said in capfd.readouterr().err.splitlines()


def test_images_of_8_bits_have_no_white_to_measure(tmp_path: Path) -> None:
    assert run(own(classes(tmp_path / "tree"), val_fraction=0.25), tmp_path / "out")["white"] is None


def test_a_killed_stage_measures_the_same_white(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = deep(tmp_path / "tree", "<u2", 4095)
    (root / "dark/broken.png").write_bytes(b"")
    whole = run(own(root, val_fraction=0.25), tmp_path / "whole")
    for step in ("_whiten", "_settle", "file_row_checksums"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
            done = getattr(stage_module, step)

            def dying(*arguments: Any, done: Callable[..., Any] = done) -> Any:
                done(*arguments)
                raise OSError("gone")

            patch.setattr(stage_module, step, dying)
            run(own(root, val_fraction=0.25), tmp_path / "parts")
    assert run(own(root, val_fraction=0.25), tmp_path / "parts") == whole
    assert (tmp_path / "whole/images.npy").read_bytes() == (tmp_path / "parts/images.npy").read_bytes()


def sixteen_bits(largest: int) -> bytes:
    """A PNG of 16 bits a channel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = np.linspace(0, largest, SIZE * SIZE * 3).astype(">u2").reshape(SIZE, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_colours_of_few_bits_in_16_are_not_read_as_black(tmp_path: Path) -> None:
    root = classes(tmp_path / "tree")
    (root / "cat/deep.png").write_bytes(sixteen_bits(65535))
    manifest = run(own(root, val_fraction=0.1), tmp_path / "out")
    assert (manifest["broken"], manifest["white"]) == ([], None)
    (root / "cat/deep.png").write_bytes(sixteen_bits(4095))
    with pytest.raises(ValueError, match="1 colour images of 16 bits have no value above 6% of white"):
        run(own(root, val_fraction=0.1), tmp_path / "out")
