"""ImageNet's own files, made small here, read where they lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from manifests import images_of
from PIL import Image
from scipy.io import savemat

from ldae.data.division import Division
from ldae.data.sources.tars import DEVKIT, TRAIN, VAL, load
from ldae.runtime.files import read_json
from ldae.stages.prepare import prepare
from ldae.study.scale import ImageNet
from ldae.study.stage_specs import DatasetStage

CLASSES = {"n02": 2, "n01": 1, "n03": 3}  # in the order of the tar file, with the kit's own numbers
COLOURS = {"n01": (255, 0, 0), "n02": (0, 255, 0), "n03": (0, 0, 255)}
VAL_CLASSES = ["n03", "n01", "n01", "n02"]


def jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 36), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


def packed(files: dict[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = {f"{name}.tar": packed({f"{name}_{i}.JPEG": jpeg(COLOURS[name]) for i in range(3)}) for name in CLASSES}
    (tmp_path / TRAIN).write_bytes(packed(inner))
    images = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(COLOURS[name]) for i, name in enumerate(VAL_CLASSES, 1)}
    (tmp_path / VAL).write_bytes(packed(dict(reversed(images.items()))))
    synsets = np.zeros(len(CLASSES), dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "U9")])
    for place, (name, number) in enumerate(CLASSES.items()):
        synsets[place] = (number, name)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{CLASSES[name]}\n" for name in VAL_CLASSES).encode()
    kit = "ILSVRC2012_devkit_t12/data"
    files = {f"{kit}/meta.mat": meta.getvalue(), f"{kit}/ILSVRC2012_validation_ground_truth.txt": truth}
    (tmp_path / DEVKIT).write_bytes(packed(files, "w:gz"))
    return tmp_path


def dataset(folder: Path) -> ImageNet:
    return ImageNet(source="imagenet", path=str(folder), size=32)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_has_the_label_of_its_class(workers: int, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(DatasetStage(dataset=dataset(folder)), revision=1, out=out, workers=workers)
    manifest = read_json(out / "manifest.json")
    assert manifest["classes"] == ["n01", "n02", "n03"]
    assert manifest["counts"]["train"] == {"n01": 3, "n02": 3, "n03": 3}
    for split, num in (("train", 9), ("val", 4)):
        images, labels = images_of(out, split), Division.open(out, split, seed=0).labels
        assert images.shape == (num, 3, 32, 32)
        seen = images.mean((2, 3)).argmax(1)  # red, green and blue are the classes in order
        np.testing.assert_array_equal(seen, labels)
    assert Division.open(out, "val", seed=0).labels.tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_an_absent_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: is absent; dataset.path should be a folder with"):
        load(dataset(folder))


@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_a_file_that_is_no_tar_is_named(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match=f"{name}: is not a complete tar file"):
        load(dataset(folder))


def test_a_kit_that_is_cut_short_is_named(folder: Path) -> None:
    (folder / DEVKIT).write_bytes((folder / DEVKIT).read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{DEVKIT}: (is not a complete tar file|lacks)"):
        load(dataset(folder))


def test_labels_that_do_not_fit_are_told(folder: Path) -> None:
    (folder / VAL).write_bytes(packed({"ILSVRC2012_val_00000001.JPEG": jpeg((9, 9, 9))}))
    with pytest.raises(ValueError, match="holds 1 images, and .* has labels for 4"):
        load(dataset(folder))
