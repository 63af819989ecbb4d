"""Broken pictures, trees, archives and weights, each told in one line: nothing is executed, nothing is lost."""

from __future__ import annotations

import binascii
import csv
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import images_of
from PIL import Image, ImageCms, TiffImagePlugin
from safetensors.torch import save_file
from scipy.io import savemat

from ldae import cli
from ldae.data.sources.pixels import draw
from ldae.data.sources.tars import DEVKIT, TRAIN, VAL
from ldae.runtime.files import sha256

SIDE = 16


class Evil:
    """Unpickled, it would leave a file `pwned` where it was."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that must be refused in one line; `results` and all in it stay as they were."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    (results / "dataset").mkdir(parents=True)
    for name in ("manifest.json", "images.npy", "tokenizer.json", "reference.npz"):
        (results / "dataset" / name).write_text("an earlier result")

    def run(*arguments: str) -> str:
        before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
        monkeypatch.setattr(sys, "argv", ["ldae", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = caught.value.code
        assert isinstance(said, str), said
        assert said.startswith("ldae: ") and len(said.splitlines()) == 1, said
        assert not (tmp_path / "pwned").exists()
        after = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
        assert {path: after.get(path) for path in before} == before
        return said

    return run


# ---------------------------------------------------------------------------------------------------------------------
# Pictures
# ---------------------------------------------------------------------------------------------------------------------


def encoded(form: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(256, size=(size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(noise).convert(mode).save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header claims this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", binascii.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def float_tiff(value: float) -> bytes:
    file = io.BytesIO()
    Image.new("F", (20, 20), value).save(file, "TIFF")
    return file.getvalue()


BROKEN: dict[str, bytes] = {
    "nothing.jpg": b"",
    "text.jpg": b"this is no picture",
    "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "script.png": b"#!/bin/sh\nmkdir pwned\n",
    "zeros.jpg": bytes(5000),
    "half.jpg": encoded("JPEG")[:700],
    "start.jpg": encoded("JPEG")[:2],
    "half.png": encoded("PNG")[:1500],
    "header.png": encoded("PNG")[:20],
    "flipped.png": bytes(byte ^ (index == 900) * 0x40 for index, byte in enumerate(encoded("PNG"))),
    "half.webp": encoded("WEBP")[:300],
    "half.bmp": encoded("BMP")[:500],
    "half.tiff": encoded("TIFF")[:900],
    "not_a_number.tiff": float_tiff(float("nan")),
    "below_black.tiff": float_tiff(-0.5),
    "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n(pwned) (w) file closefile\n",
    "bomb.png": png(100_000, 100_000),
    "flat.png": png(0, 20),
    "line.png": encoded("PNG", (1, 2000)),
    "short.png": png(40, 30, bytes(100)),
    "pickle.png": pickle.dumps(Evil()),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_named(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    tree = class_tree(tmp_path / "tree")
    for number in range(2):  # one would be left out
        (tree / f"train/cat/{number}-{name}").write_bytes(BROKEN[name])
    said = refused(*prepare(tree))
    assert f"train: 2 of 6 images are broken, too many; the first is train/cat/0-{name}: " in said
    with (tmp_path / "results/dataset/broken.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [row["path"] for row in listed] == [f"train/cat/{number}-{name}" for number in range(2)]
    assert all(row["reason"] for row in listed)


def class_tree(root: Path) -> Path:
    """`train/` and `val/` with two classes of two pictures each."""
    for folder in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (root / folder).mkdir(parents=True)
        for number in range(2):
            (root / folder / f"{number}.png").write_bytes(encoded("PNG"))
    return root


def prepare(tree: Path, **dataset: Any) -> list[str]:
    """A command that prepares a folder over the earlier results."""
    spec = {"dataset": {"source": "folder", "path": str(tree), "size": SIDE} | dataset}
    return ["prepare", "--spec", json.dumps(spec), "--out", "results/dataset"]


def animated(form: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(file, form, save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


def red(mode: str, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 30), "red").convert(mode).save(file, form, **options)
    return file.getvalue()


def lab() -> bytes:
    file = io.BytesIO()
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    image = ImageCms.profileToProfile(Image.new("RGB", (20, 20), "red"), *profiles, outputMode="LAB")
    assert image is not None
    image.save(file, "TIFF")
    return file.getvalue()


ODD: dict[str, bytes] = {
    "progressive JPEG": red("RGB", "JPEG", progressive=True, quality=95),
    "JPEG with something behind it": red("RGB", "JPEG", quality=95) + b"<html>" * 100,
    "CMYK JPEG": red("CMYK", "JPEG", quality=95),
    "CMYK TIFF": red("CMYK", "TIFF"),
    "YCbCr TIFF": red("YCbCr", "TIFF"),
    "L*a*b* TIFF": lab(),
    "TIFF of many tiles": red("RGB", "TIFF", compression="tiff_lzw", tiffinfo={TiffImagePlugin.ROWSPERSTRIP: 3}),
    "palette": red("P", "PNG"),
    "palette with transparency": red("P", "PNG", transparency=255),
    "alpha": red("RGBA", "PNG"),
    "GIF": red("P", "GIF"),
    "animated PNG": animated("PNG"),
    "animated WebP": animated("WEBP"),
    "one pixel": png(1, 1, b"\x00\xff\x00\x00"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_read_as_it_is_meant(name: str) -> None:
    pixels = draw(ODD[name], SIDE).pixels
    assert pixels is not None
    assert pixels.shape == (3, SIDE, SIDE)
    np.testing.assert_allclose(pixels.mean((1, 2)), [254, 0, 0], atol=12)


# ---------------------------------------------------------------------------------------------------------------------
# Trees
# ---------------------------------------------------------------------------------------------------------------------

Change = Callable[[Path], object]


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


TREES: dict[str, tuple[Change, dict[str, Any], str]] = {
    "nothing": (lambda tree: shutil.rmtree(tree), {}, "tree: is not a folder"),
    "a file": (lambda tree: (shutil.rmtree(tree), tree.write_text("")), {}, "tree: is not a folder"),
    "an empty folder": (emptied, {"val_fraction": 0.1}, "tree: needs two class folders at least, has 0"),
    "no val folder": (lambda tree: shutil.rmtree(tree / "val"), {}, "write dataset.val_fraction"),
    "no val folder, a share of it": (
        lambda tree: shutil.rmtree(tree / "val"),
        {"val_fraction": 0.5},
        "needs two class folders at least, has 1",
    ),
    "one class": (
        lambda tree: [shutil.rmtree(tree / split / "dog") for split in ("train", "val")],
        {},
        "train: needs two class folders at least, has 1",
    ),
    "an empty class": (lambda tree: emptied(tree / "val/dog"), {}, "val/dog: has no images"),
    "a class of other files": (
        lambda tree: (emptied(tree / "train/dog"), (tree / "train/dog/a.txt").write_text("")),
        {},
        "train/dog: has no images",
    ),
    "a class for training alone": (lambda tree: shutil.rmtree(tree / "val/dog"), {}, "has 1"),
    "a class for validation alone": (
        lambda tree: shutil.copytree(tree / "val/dog", tree / "val/bird"),
        {},
        "only in train/: none; only in val/: bird",
    ),
    "a picture beside the classes": (
        lambda tree: shutil.copy(tree / "val/dog/0.png", tree / "train/stray.PNG"),
        {},
        "train/stray.PNG: is in no class folder",
    ),
    "one image": (
        lambda tree: (
            [shutil.rmtree(tree / name) for name in ("train/cat", "val")],
            (tree / "train/dog/1.png").unlink(),
        ),
        {},
        "tree: does not have both train/ and val/",
    ),
    "a class of one image to be split": (
        lambda tree: [path.unlink() for path in tree.glob("*/cat/1.png")],
        {"path": "tree/train", "val_fraction": 0.5},
        "cat: has a single image",
    ),
    "links to nowhere": (
        lambda tree: [(tree / f"train/cat/{number}.png").symlink_to(tree / "gone.png") for number in (2, 3)],
        {},
        "train/cat/2.png: is a dangling link",
    ),
    "links to themselves": (
        lambda tree: [(tree / f"train/cat/{number}.png").symlink_to(f"{number}.png") for number in (2, 3)],
        {},
        "train/cat/2.png: is a dangling link",
    ),
    "a class that is a link to nowhere": (
        lambda tree: (tree / "train/bird").symlink_to(tree / "gone"),
        {},
        "tree/train/bird: is a dangling link",
    ),
    "a class without a picture that can be read": (
        lambda tree: [(tree / f"train/cat/{number}.png").write_bytes(b"") for number in (0, 1)],
        {"broken": "allow"},
        "train: 2 of 4 images are broken, all of the class cat among them; the first is train/cat/0.png: is empty",
    ),
    "a share and a val folder": (lambda tree: None, {"val_fraction": 0.1}, "remove dataset.val_fraction"),
}


@pytest.mark.parametrize("name", TREES)
def test_a_tree_that_cannot_be_used_is_named(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    change, dataset, words = TREES[name]
    change(class_tree(tmp_path / "tree"))
    assert words in refused(*prepare(tmp_path / "tree", **dataset))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    tree = class_tree(tmp_path / "tree")
    (tree / "train/cat/0.png").chmod(0)
    (tree / "train/cat/1.png").chmod(0)
    assert "train/cat/0.png: may not be read" in refused(*prepare(tree))


def test_a_folder_that_is_named_like_a_picture_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = class_tree(tmp_path / "tree")
    (tree / "train/cat/x.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ldae", *prepare(tree)])
    cli.main()
    assert len(images_of(tmp_path / "results/dataset", "train")) == 4


# ---------------------------------------------------------------------------------------------------------------------
# ImageNet's tar files
# ---------------------------------------------------------------------------------------------------------------------


def packed(files: dict[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def table(**columns: Any) -> bytes:
    """A MATLAB file with a table of classes."""
    file = io.BytesIO()
    dtype = [("ILSVRC2012_ID", "i4"), ("WNID", "U9")]
    savemat(file, columns or {"synsets": np.array([(1, "n01"), (2, "n02")], dtype=dtype)})
    return file.getvalue()


def kit(truth: bytes = b"1\n2\n", meta: bytes | None = None) -> bytes:
    folder = "ILSVRC2012_devkit_t12/data"
    files = {f"{folder}/meta.mat": table() if meta is None else meta}
    return packed(files | {f"{folder}/ILSVRC2012_validation_ground_truth.txt": truth}, "w:gz")


def inner(num: int = 2) -> bytes:
    return packed({f"{number}.JPEG": encoded("JPEG") for number in range(num)})


def val() -> bytes:
    return packed({f"{number}.JPEG": encoded("JPEG") for number in range(2)})


def damaged(content: bytes, place: int) -> bytes:
    """With one other byte."""
    return content[:place] + bytes([content[place] ^ 0x7F]) + content[place + 1 :]


def train(**classes: bytes) -> bytes:
    return packed({f"{name}.tar": content for name, content in ({"n01": inner(), "n02": inner()} | classes).items()})


ARCHIVES: dict[str, tuple[str, bytes | None, str]] = {
    "no development kit": (DEVKIT, None, "is absent"),
    "a page instead of a tar": (TRAIN, b"<html>" * 200, "is not a complete tar file"),
    "an empty tar": (TRAIN, packed({}), "holds nothing"),
    "a class that is no tar": (TRAIN, train(n02=b"<html>" * 200), "n02.tar, in it"),
    "a class without images": (TRAIN, train(n02=packed({})), "n02.tar holds no images"),
    "a picture beside the classes": (TRAIN, packed({"n01.tar": inner(), "n02.JPEG": encoded("JPEG")}), "n02.JPEG, in"),
    "a train tar cut short": (TRAIN, train()[:15_000], f"{TRAIN}: is not a complete tar file"),
    "a val tar cut short": (VAL, val()[:2500], f"{VAL}: is not a complete tar file"),
    "a tar with a damaged header": (VAL, damaged(val(), 2048 + 100), f"{VAL}: is not a complete tar file"),
    "a class with a damaged header": (TRAIN, train(n02=damaged(inner(), 2048 + 100)), "n02.tar, in it"),
    "a broken picture": (TRAIN, train(n02=packed({"9.JPEG": b"<html>"})), "n02/9.JPEG: is not an image"),
    "too few validation images": (VAL, packed({"0.JPEG": encoded("JPEG")}), "holds 1 images, and"),
    "a label out of range": (DEVKIT, kit(b"1\n3\n"), "line 2 of data/ILSVRC2012_validation_ground_truth.txt is '3'"),
    "a label below the range": (DEVKIT, kit(b"0\n2\n"), "line 1 of"),
    "a label that is a word": (DEVKIT, kit(b"1\ncat\n"), "is 'cat'"),
    "a label that is no text": (DEVKIT, kit(b"1\n\xff\xfe\n"), "line 2 of"),
    "a table of something else": (DEVKIT, kit(meta=table(other=np.zeros(3))), "meta.mat has no table of classes"),
    "no table": (DEVKIT, kit(meta=b"something else" * 50), "meta.mat has no table of classes"),
    "a kit without labels": (DEVKIT, packed({"data/meta.mat": table()}, "w:gz"), "lacks data/ILSVRC2012"),
    "a kit that is no archive": (DEVKIT, b"\x1f\x8b" + bytes(200), "is not a complete tar file"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_cannot_be_used_is_named(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    files = {TRAIN: train(), VAL: val(), DEVKIT: kit()}
    file, content, words = ARCHIVES[name]
    for path, whole in (files | ({file: content} if content is not None else {})).items():
        if path != file or content is not None:
            (tmp_path / path).write_bytes(whole)
    assert words in refused(*prepare(tmp_path, source="imagenet"))


# ---------------------------------------------------------------------------------------------------------------------
# Weights and statistics from elsewhere
# ---------------------------------------------------------------------------------------------------------------------

CONV = {"steps": 1, "batch": 2, "rate": 0.001, "width": 8, "blocks": 1, "discriminator_width": 4}


def vae(refused: Callable[..., str], file: Path, dataset: Path, digest: str | None = None) -> str:
    """What is said of a published autoencoder."""
    weights = {"path": str(file), "sha256": digest or sha256(file)}
    spec = {"dim": 16, "perceptual": True, "adversarial": True, "convolutional": CONV | {"published": weights}}
    folders = ["--dataset", str(dataset), "--resume", "resume", "--out", "results/dataset"]
    return refused("train-tokenizer", "--spec", json.dumps(spec), *folders)


def stored(path: Path, content: Any) -> None:
    """By torch, by safetensors, or as it is."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)


def cut_short(content: dict[str, torch.Tensor], size: int) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()[:size]


SIGN = "encoder.down.0.block.0.norm1.weight"
CONV_IN = "encoder.conv_in.weight"
VAES: dict[str, tuple[str, Any, str]] = {
    "a pickle that runs a command": ("a.pth", Evil(), "nothing in it was executed"),
    "a bare pickle that runs a command": ("a.pth", pickle.dumps(Evil()), "nothing in it was executed"),
    "a command among tensors": ("a.pth", {SIGN: torch.ones(2), "x": Evil()}, "nothing in it was executed"),
    "a command among options": (
        "a.pth",
        {"model": {SIGN: torch.ones(2)}, "args": Namespace(x=Evil())},
        "would call posix",
    ),
    "a page": ("a.pth", b"<html>404</html>", "contains no plain tensors"),
    "nothing": ("a.pth", b"", "contains no plain tensors"),
    "a file cut short": ("a.pth", cut_short({SIGN: torch.ones(500)}, 900), "contains no plain tensors"),
    "a list": ("a.pth", [torch.ones(2)], "contains a list, expected a mapping of names to tensors"),
    "a tensor": ("a.pth", torch.ones(2), "contains a Tensor"),
    "other names": ("a.safetensors", {"weight": torch.ones(2)}, "not the weights of a Stable Diffusion VAE"),
    "names without tensors": ("a.pth", {SIGN: 3}, "not the weights of a Stable Diffusion VAE"),
    "missing keys": ("a.safetensors", {SIGN: torch.ones(2)}, "encoder.conv_in.weight is absent"),
    "another shape": (
        "a.safetensors",
        {SIGN: torch.ones(128), CONV_IN: torch.ones(128, 5, 3, 3), "post_quant_conv.weight": torch.ones(4, 4, 1, 1)},
        "not the weights of a KL-f8 VAE",
    ),
    "no numbers": ("a.safetensors", {SIGN: torch.full((2,), torch.nan)}, f"{SIGN} contains values that are not finite"),
    "infinite numbers": ("a.pth", {SIGN: torch.full((2,), torch.inf)}, f"{SIGN} contains values that are not finite"),
    "no header": ("a.safetensors", b"abc", "contains no plain tensors"),
    "a header cut short": ("a.safetensors", struct.pack("<Q", 1000) + b'{"a":', "contains no plain tensors"),
    "a header without end": ("a.safetensors", b"\xff" * 8 + b"{}", "contains no plain tensors"),
    "a header of nonsense": ("a.safetensors", struct.pack("<Q", 8) + b"{nonsens", "contains no plain tensors"),
    "tensors beyond the file": (
        "a.safetensors",
        struct.pack("<Q", 56) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}} ',
        "contains no plain tensors",
    ),
}


@pytest.mark.parametrize("name", VAES)
def test_weights_that_are_none_are_named(
    name: str, refused: Callable[..., str], prepared: Path, tmp_path: Path
) -> None:
    file, content, words = VAES[name]
    stored(tmp_path / file, content)
    said = vae(refused, tmp_path / file, prepared / "dataset")
    assert words in said
    assert str(tmp_path / file) in said


def test_weights_that_are_absent_others_or_a_folder_are_named(
    refused: Callable[..., str], prepared: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.pth"
    said = vae(refused, file, prepared / "dataset", "0" * 64)
    assert f"{file}: does not exist" in said
    file.mkdir()
    assert f"{file}: does not exist" in vae(refused, file, prepared / "dataset", "0" * 64)
    file.rmdir()
    file.write_bytes(b"x")
    assert f"{file}: has sha256 {sha256(file)}, expected {'0' * 64}" in vae(
        refused, file, prepared / "dataset", "0" * 64
    )


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def other_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("mu.npy", "text")
        content.writestr("sigma.npy", "text")
    return file.getvalue()


STATISTICS: dict[str, tuple[bytes, str]] = {
    "objects": (archive(mu=np.array([Evil()]), sigma=np.eye(2)), "is damaged"),
    "a pickle": (pickle.dumps({"mu": Evil()}), "is damaged"),
    "text": (b"mu sigma", "is damaged"),
    "nothing": (b"", "is damaged"),
    "cut short": (archive(mu=np.zeros(3), sigma=np.eye(3))[:-100], "is damaged"),
    "a zip of something else": (other_zip(), "is damaged ('mu' is not an array)"),
    "without sigma": (archive(mu=np.zeros(3)), "holds mu; expected mu and sigma"),
    "sigma of another size": (archive(mu=np.zeros(3), sigma=np.eye(2)), "mu is (3,) and sigma (2, 2)"),
    "mu of two dimensions": (archive(mu=np.zeros((3, 3)), sigma=np.eye(3)), "mu is (3, 3)"),
    "no numbers": (archive(mu=np.full(3, np.nan), sigma=np.eye(3)), "not finite"),
    "words": (archive(mu=np.array(["a", "b"]), sigma=np.eye(2)), "mu contains values that are not finite numbers"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_that_are_none_are_named(
    name: str, refused: Callable[..., str], prepared: Path, tmp_path: Path
) -> None:
    content, words = STATISTICS[name]
    file = tmp_path / "adm.npz"
    file.write_bytes(content)
    judging = {
        "features": {"path": str(tmp_path / "inception.pth"), "sha256": "0" * 64},
        "reference": {"path": str(file), "sha256": sha256(file)},
    }
    folders = ["--dataset", str(prepared / "dataset"), "--out", "results/dataset"]
    said = refused("reference", "--spec", json.dumps({"judging": judging}), *folders)
    assert f"{file}: " in said
    assert words in said
