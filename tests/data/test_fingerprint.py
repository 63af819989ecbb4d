"""Whether prepared images are of the pictures that are there now: on this machine, on another, after any edit."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image
from test_tars import dataset as archives
from test_tars import folder as folder  # a fixture
from test_tars import jpeg, packed

import ldae.stages.prepare as stage_module
from ldae.data.sources import opening, photos
from ldae.data.sources.opening import difference
from ldae.data.sources.tars import VAL
from ldae.runtime.files import read_json
from ldae.stages.prepare import prepare
from ldae.study.scale import Dataset, Folder, Photos
from ldae.study.stage_specs import DatasetStage

Prepared = tuple[Folder, dict[str, Any], Path]


def run(dataset: Dataset, out: Path) -> dict[str, Any]:
    """Prepares a data set and returns its manifest."""
    prepare(DatasetStage(dataset=dataset), out=out, revision=1, workers=1)
    manifest: dict[str, Any] = read_json(out / "manifest.json")
    return manifest


def picture(path: Path, shade: int) -> None:
    """Saves a grey picture whose file has the same size for any shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (16, 16), shade).save(path, "BMP")


def tree(root: Path, num: int = 6) -> Path:
    for place, name in enumerate(("cat", "dog", "naïve 草")):
        for number in range(num):
            picture(root / name / f"{number}.bmp", 40 * place + number)
    return root


def own(root: Path, **more: Any) -> Folder:
    return Folder(source="folder", path=str(root), size=16, val_fraction=0.5, **more)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    dataset = own(tree(tmp_path / "pictures"))
    return dataset, run(dataset, tmp_path / "prepared"), tmp_path / "prepared"


def changed(prepared: Prepared, dataset: Folder | None = None) -> str | None:
    """What is different now; asking leaves everything as it was."""
    before = {path: path.stat().st_mtime_ns for path in prepared[2].rglob("*")}
    said = difference(dataset or prepared[0], prepared[1], prepared=prepared[2])
    assert {path: path.stat().st_mtime_ns for path in prepared[2].rglob("*")} == before
    return said


def test_the_same_pictures_are_the_same_wherever_they_lie_and_however_they_are_split(
    prepared: Prepared, tmp_path: Path
) -> None:
    assert changed(prepared) is None
    assert str(tmp_path) not in str(prepared[1] | {"lineage": None})
    shutil.copytree(prepared[0].path, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
    moved = own(tmp_path / "copy").model_copy(update={"val_fraction": 0.3})
    assert changed(prepared, moved) is None
    assert run(moved, tmp_path / "again")["sources"] == prepared[1]["sources"]


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a picture more": (lambda root: picture(root / "cat/new.bmp", 9), "19 files, 18 before"),
    "a picture less": (lambda root: (root / "dog/3.bmp").unlink(), "17 files, 18 before"),
    "another name": (lambda root: (root / "cat/3.bmp").rename(root / "cat/7.bmp"), "cat/7.bmp is new"),
    "another class": (lambda root: (root / "cat/3.bmp").rename(root / "dog/7.bmp"), "dog/7.bmp is new"),
    "another size": (
        lambda root: Image.new("L", (20, 20)).save(root / "cat/3.bmp"),
        "cat/3.bmp has another size",
    ),
    "other contents of the same size": (lambda root: picture(root / "cat/3.bmp", 99), "cat/3.bmp has other contents"),
    "two pictures that swap names": (
        lambda root: [
            (root / a).rename(root / b) for a, b in (("cat/1.bmp", "x"), ("cat/2.bmp", "cat/1.bmp"), ("x", "cat/2.bmp"))
        ],
        "cat/1.bmp has other contents",
    ),
    "a link that leads nowhere now": (
        lambda root: ((root / "cat/3.bmp").unlink(), (root / "cat/3.bmp").symlink_to("gone.bmp")),
        "cat/3.bmp has another size",
    ),
    "a class less": (lambda root: shutil.rmtree(root / "naïve 草"), "12 files, 18 before"),
    "a class whose pictures have gone": (lambda root: [p.unlink() for p in (root / "cat").iterdir()], "no images"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_other_pictures_at_the_same_place_are_told(edit: str, prepared: Prepared) -> None:
    change, words = EDITS[edit]
    root = Path(prepared[0].path)
    change(root)
    said = changed(prepared)
    assert said is not None
    assert said.startswith(f"the pictures in {root} differ from those that were prepared: ")
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize("change", ["touch", "notes", "hidden"])
def test_what_is_no_picture_changes_nothing(change: str, prepared: Prepared) -> None:
    root = Path(prepared[0].path)
    if change == "touch":
        (root / "cat/3.bmp").touch()
    elif change == "notes":
        (root / "cat/notes.txt").write_text("")
    else:
        picture(root / "cat/.thumbnails/3.bmp", 3)
    assert changed(prepared) is None


def test_pictures_that_cannot_be_seen_are_not_other_pictures(prepared: Prepared, tmp_path: Path) -> None:
    shutil.rmtree(prepared[0].path)
    assert changed(prepared) is None
    Path(prepared[0].path).mkdir()  # as a disk that is not mounted
    assert changed(prepared) is None
    assert f"{tmp_path}/misspelt: is not a folder" in str(changed(prepared, own(tmp_path / "misspelt")))


def test_older_manifests_and_those_of_other_sources_say_nothing(prepared: Prepared) -> None:
    dataset, manifest, out = prepared
    (Path(dataset.path) / "cat/3.bmp").unlink()
    older = {key: value for key, value in manifest.items() if key != "sources"}
    assert difference(dataset, older, prepared=out) is None
    other = Photos(source="photos", size=16, train=20, val=20)
    assert difference(other, manifest, prepared=out) is None


def test_without_the_listing_names_and_sizes_decide(prepared: Prepared, tmp_path: Path) -> None:
    listing = prepared[2] / "sources.npz"
    foreign = tmp_path / "foreign"
    run(own(tree(tmp_path / "other", num=5)), foreign)
    for use in (listing.unlink, lambda: shutil.copy(foreign / "sources.npz", listing)):
        picture(Path(prepared[0].path) / "cat/3.bmp", 99)
        use()
        assert changed(prepared) is None
    listing.write_bytes(b"PK\x03\x04 something else")
    assert changed(prepared) is None
    (Path(prepared[0].path) / "cat/3.bmp").rename(Path(prepared[0].path) / "cat/7.bmp")
    assert "names or sizes" in str(changed(prepared))


def test_of_many_files_only_the_folders_are_looked_at(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MANY", 10)
    with monkeypatch.context() as patch:
        patch.setattr(opening, "listing", None)  # which would look at every file
        assert changed(prepared) is None
    picture(Path(prepared[0].path) / "cat/new.bmp", 9)
    assert "19 files, 18 before" in str(changed(prepared))


def test_of_too_many_bytes_names_and_sizes_decide(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(Path(prepared[0].path) / "cat/3.bmp", 99)
    monkeypatch.setattr(opening, "MOST_BYTES", 100)
    assert changed(prepared) is None


def test_a_link_that_leads_somewhere_now_is_told(prepared: Prepared, tmp_path: Path) -> None:
    root = Path(prepared[0].path)
    (root / "cat/3.bmp").unlink()
    (root / "cat/3.bmp").symlink_to(tmp_path / "elsewhere.bmp")
    manifest = run(prepared[0], prepared[2])
    assert [broken["path"] for broken in manifest["broken"]] == ["cat/3.bmp"]
    again = prepared[0], manifest, prepared[2]
    assert changed(again) is None
    picture(tmp_path / "elsewhere.bmp", 3)
    assert "cat/3.bmp has another size" in str(changed(again))


def test_a_picture_that_may_be_read_now_is_told(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name == "3.bmp" and path.parent.name == "cat":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refusing)
        manifest = run(prepared[0], prepared[2])
    assert manifest["broken"] == [{"path": "cat/3.bmp", "reason": "may not be read"}]
    assert "cat/3.bmp can be read now" in str(changed((prepared[0], manifest, prepared[2])))


def test_photographs_of_another_package_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Photos(source="photos", size=16, train=20, val=20)
    manifest = run(dataset, tmp_path / "out")
    assert difference(dataset, manifest, prepared=tmp_path / "out") is None
    other = tmp_path / "chelsea.png"
    other.write_bytes(b"another cat")
    locate = photos.locate

    def exchanged(label: int) -> Path:
        return other if "chelsea" in photos.PHOTOGRAPHS[label][1] else locate(label)

    monkeypatch.setattr(photos, "locate", exchanged)
    said = difference(dataset, manifest, prepared=tmp_path / "out")
    assert said == "scikit-image's skimage/data/chelsea.png is another file than the one that was prepared"

    def missing(label: int) -> Path:
        raise ValueError("scikit-image is not installed")

    monkeypatch.setattr(photos, "locate", missing)
    assert difference(dataset, manifest, prepared=tmp_path / "out") is None


def test_exchanged_archives_are_told(folder: Path, tmp_path: Path) -> None:
    dataset, out = archives(folder), tmp_path / "out"
    manifest = run(dataset, out)
    assert difference(dataset, manifest, prepared=out) is None
    os.utime(folder / VAL, (1, 1))
    assert difference(dataset, manifest, prepared=out) is None
    content = bytearray((folder / VAL).read_bytes())
    content[700] ^= 1
    (folder / VAL).write_bytes(content)
    assert f"{VAL} has other contents" in str(difference(dataset, manifest, prepared=out))
    (folder / VAL).write_bytes(packed({"0.JPEG": jpeg((1, 2, 3)) * 50}))
    assert f"{VAL} has another size" in str(difference(dataset, manifest, prepared=out))
    (folder / VAL).unlink()
    assert difference(dataset, manifest, prepared=out) is None


# ---------------------------------------------------------------------------------------------------------------------
# A preparation that goes on
# ---------------------------------------------------------------------------------------------------------------------


def interrupted(dataset: Dataset, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepares the first chunk only."""
    fill = stage_module._fill

    def failing(chunk: Any) -> Any:
        if chunk.places[0]:
            raise OSError("the disk is gone")
        return fill(chunk)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is gone"):
        patch.setattr(stage_module, "_fill", failing)
        run(dataset, out)
    assert (out / ".images.npy.journal").exists()


def filled(dataset: Dataset, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where the chunks begin that going on has drawn."""
    fill, starts = stage_module._fill, []

    def counting(chunk: Any) -> Any:
        starts.append(chunk.places[0])
        return fill(chunk)

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "_fill", counting)
        run(dataset, out)
    return starts


def test_pictures_that_were_edited_meanwhile_are_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = own(tree(tmp_path / "pictures", num=100))
    interrupted(dataset, tmp_path / "out", monkeypatch)
    for number in range(100):
        picture(tmp_path / f"pictures/cat/{number}.bmp", 156 + number)
    run(dataset, tmp_path / "out")
    labels, images = (np.load(tmp_path / f"out/{name}.npy") for name in ("labels", "images"))
    assert (images[labels == 0] >= 156).all()


def test_another_pillow_or_other_photographs_are_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Photos(source="photos", size=16, train=40, val=10)
    interrupted(dataset, tmp_path / "same", monkeypatch)
    assert filled(dataset, tmp_path / "same", monkeypatch) == [128]
    interrupted(dataset, tmp_path / "pillow", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(PIL, "__version__", "0.1")
        assert filled(dataset, tmp_path / "pillow", monkeypatch) == [0, 128]
    assert read_json(tmp_path / "pillow/manifest.json")["pillow"] == "0.1"
    interrupted(dataset, tmp_path / "photographs", monkeypatch)
    hashes = photos.hashes() | {"matplotlib": {"mpl-data/sample_data/grace_hopper.jpg": "another"}}
    monkeypatch.setattr(photos, "hashes", lambda: hashes)
    assert filled(dataset, tmp_path / "photographs", monkeypatch) == [0, 128]


def test_pictures_that_change_under_the_preparation_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = own(tree(tmp_path / "pictures"))
    fill = stage_module._fill

    def editing(chunk: Any) -> Any:
        outcomes = fill(chunk)
        picture(tmp_path / "pictures/cat/3.bmp", 99)
        return outcomes

    monkeypatch.setattr(stage_module, "_fill", editing)
    with pytest.raises(ValueError, match=r"pictures.*were changed while they were prepared; start again$"):
        run(dataset, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
