"""`from ldae import load`: a finished run in a person's own Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import images_of
from PIL import Image
from torch import Tensor

from ldae import load
from ldae.api import Run
from ldae.parts.denoiser import Denoiser
from ldae.runtime.files import read_json, write_json
from ldae.runtime.randomness import Randomness
from ldae.stages.probe import probe, trained_encoders
from ldae.study.recipes import Probing
from ldae.study.results import Manifest, RunRecord
from ldae.study.stage_specs import ProbeStage

RUNS = ("ldae", "mae", "moco_v3")
FOLDERS = {"dataset": "dataset", "tokenizer": "tokenizers/pca/seed0", "model": "pretrain/ldae/seed0"}


@pytest.fixture(scope="module")
def run(finished: Path) -> Run:
    return load(finished / "pretrain/ldae/seed0")


@pytest.fixture(scope="module")
def pictures(finished: Path) -> Tensor:
    return torch.from_numpy(images_of(finished / "dataset", "val"))


def test_pictures_of_12_bits_have_the_white_of_the_training_images(finished: Path, tmp_path: Path) -> None:
    results = shutil.copytree(finished, tmp_path / "results")
    manifest = read_json(results / "dataset/manifest.json")
    picture = Image.fromarray(np.full((32, 32), 1000, dtype=np.uint16))
    for level in (4095, 65535):
        write_json(
            results / "dataset/manifest.json",
            manifest | {"white": {"level": level, "measured": True, "largest": level, "images": 1}},
        )
        images = load(results / "pretrain/ldae/seed0").preprocess(picture)
        torch.testing.assert_close(images.mean().item(), 2 * 1000 / level - 1, rtol=0, atol=0.01)


def test_importing_the_package_costs_no_torch() -> None:
    """Until something of it is asked for."""
    code = """
import sys

class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit("torch is wanted")

sys.meta_path.insert(0, Told())
import ldae
print("imported")
ldae.load
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.stdout, said.stderr) == ("imported\n", "torch is wanted\n")


def test_a_run_is_open_in_one_call(finished: Path) -> None:
    run = load(str(finished / "pretrain/ldae/seed0"))
    assert (run.row, run.seed, run.image_size, run.classes) == ("ldae", 0, 32, ["a", "b", "c"])
    assert isinstance(run.model, Denoiser)
    assert run.tokenizer is run.model.tokenizer
    assert run.record == RunRecord.read(finished / "pretrain/ldae/seed0/run.json")
    assert not any(parameter.requires_grad for parameter in run.model.parameters())
    assert load(finished / "pretrain/mae/seed0").tokenizer is None


@pytest.mark.parametrize("name", RUNS)
def test_features_are_the_means_of_tokens(name: str, finished: Path, pictures: Tensor) -> None:
    run = load(finished / f"pretrain/{name}/seed0")
    tokens = run.tokens(pictures)
    assert tokens.shape == (24, 4, 16)
    torch.testing.assert_close(run.encode(pictures), tokens.mean(1))
    assert not torch.allclose(run.tokens(pictures, offset=-1), tokens, atol=1e-3)


def test_features_are_those_that_are_probed(run: Run, finished: Path, pictures: Tensor) -> None:
    stage = ProbeStage(probing=Probing(mode="cached", rates=(1.0,)), time=40, offsets=(0, 1))
    manifest = Manifest.read(finished / "dataset/manifest.json")
    model = finished / "pretrain/ldae/seed0"
    encoders = trained_encoders(
        stage, model, tokenizer=finished / "tokenizers/pca/seed0", manifest=manifest, device=run.device
    )
    probed = dict(encoders.encode(encoders.prepare(run.preprocess(pictures), Randomness(run.device))))
    for offset in stage.offsets:
        torch.testing.assert_close(run.tokens(pictures, time=40, offset=offset), probed[str(offset)])


def test_images_are_taken_in_several_forms(run: Run, pictures: Tensor) -> None:
    expected = run.preprocess(pictures[:2])
    assert expected.dtype == torch.float32
    assert expected.abs().max() <= 1 + 1e-6
    opened = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures[:2]]
    for form in (opened, tuple(opened), expected, expected.double()):
        torch.testing.assert_close(run.preprocess(form), expected)
    for single in (opened[0], pictures[0], expected[0]):
        torch.testing.assert_close(run.preprocess(single), expected[:1])
    assert run.preprocess(Image.new("LA", (70, 40))).shape == (1, 3, 32, 32)


def test_pictures_of_any_size_are_taken_as_files_images_and_arrays_alike(run: Run, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(3, 90, 70, 3)).astype(np.uint8)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, pixels, strict=True):
        Image.fromarray(picture).save(path)
    expected = run.preprocess([Image.fromarray(picture) for picture in pixels])
    assert expected.shape == (3, 3, 32, 32)
    for form in (paths, list(map(str, paths)), pixels, list(pixels), [paths[0], pixels[1], expected[2]]):
        assert torch.equal(run.preprocess(form), expected)
    assert torch.equal(run.preprocess(str(paths[0])), expected[:1])
    assert torch.equal(run.preprocess(expected.cpu().numpy()), expected)
    grey = Image.fromarray(pixels[0, :, :, 0])
    assert torch.equal(run.preprocess(pixels[0, :, :, 0]), run.preprocess(grey))
    assert torch.equal(run.encode(paths), run.encode(expected))


def test_tensors_that_look_like_0_to_1_are_taken_with_a_warning(run: Run, pictures: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"look like pixels in \[0, 1\].*2 \* images - 1"):
        run.encode(pictures / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.encode(pictures / 127.5 - 1)
        run.encode(pictures)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 64, 64), r"found shape \(2, 3, 64, 64\), expected \(N, 3, 32, 32\)"),
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"found shape \(1, 32, 32, 3\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), "found torch.int64, expected uint8"),
        (torch.full((1, 3, 32, 32), 255.0), r"found floats from 255 to 255, expected them in \[-1, 1\]"),
        (torch.full((1, 3, 32, 32), float("nan")), "found floats from nan"),
        ("tests", "tests: is a folder; name the pictures in it"),
        (Path(__file__), r"test_api\.py: is not an image that Pillow can read"),
        (3, "found int, expected paths, PIL images"),
        ([3], "found int, expected paths, PIL images"),
        (np.zeros((2, 3, 64, 64), np.uint8), r"an array of shape \(2, 3, 64, 64\), expected \(H, W, 3\)"),
        (np.zeros((40, 40, 3)), "an array of float64, expected pixels of uint8"),
        ([], "found none, expected paths, PIL images"),
    ],
)
def test_images_of_another_form_are_refused_in_a_line(images: Any, words: str, run: Run) -> None:
    with pytest.raises(ValueError, match=words):
        run.encode(images)


def test_a_block_or_time_that_there_is_not_is_named(run: Run, pictures: Tensor) -> None:
    with pytest.raises(ValueError, match=r"offset: \+2 is not a block"):
        run.encode(pictures, offset=2)
    with pytest.raises(ValueError, match="time: 1000 is not a time step"):
        run.encode(pictures, time=1000)


def test_noise_is_added_and_removed(run: Run, pictures: Tensor) -> None:
    result = run.denoise(pictures, 0.5)
    assert torch.equal(result.clean.cpu(), pictures)
    assert all(part.shape == pictures.shape and part.dtype == torch.uint8 for part in result)
    again = run.denoise(run.preprocess(pictures), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(result, again, strict=True))
    assert not torch.equal(run.denoise(pictures, 0.5, seed=1).noisy, result.noisy)
    distances = [
        (run.denoise(pictures, sigma).noisy.float() - result.clean.float()).abs().mean() for sigma in (0.1, 1.0)
    ]
    assert distances[0] < distances[1]


def test_a_baseline_does_not_denoise(finished: Path, pictures: Tensor) -> None:
    with pytest.raises(ValueError, match="mae: is mae, which does not denoise"):
        load(finished / "pretrain/mae/seed0").denoise(pictures, 0.5)


def test_a_run_is_found_from_the_folder_of_its_row_and_of_its_scale(finished: Path, tmp_path: Path) -> None:
    own = finished / "pretrain/mae/seed0"
    for arguments in ((finished / "pretrain/mae",), (finished, "mae"), (own,)):
        assert load(*arguments).folder == own
        assert load(*arguments, seed=None).row == "mae"
    with pytest.raises(ValueError, match="has several trained rows; name one of ldae, mae, moco_v3"):
        load(finished)
    with pytest.raises(ValueError, match="has no trained row 'lade' .did you mean 'ldae'"):
        load(finished, "lade")
    with pytest.raises(OSError, match="no finished run of seed 3; it has 0"):
        load(finished / "pretrain/mae", seed=3)


def test_a_run_says_what_it_is(finished: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name in ("dataset", "tokenizers", "pretrain"):
        (results / name).symlink_to(finished / name)
    run = load(results, "ldae")
    assert run.accuracy is None
    assert repr(run) == f"<ldae, seed 0, not probed yet: {results}/pretrain/ldae/seed0>"
    stage = ProbeStage(probing=Probing(mode="cached", views=0, epochs=3, rates=(1.0,), batch=24, warmup=1))
    folders = {name: results / path for name, path in FOLDERS.items()}
    probe(stage, row="ldae", revision=1, **folders, out=results / "probe/ldae/seed0")
    found = read_json(results / "probe/ldae/seed0/probe.json")["blocks"]["0"]["linear"]["value"]
    run = load(results, "ldae")
    assert run.accuracy == found
    assert f"<ldae, seed 0, accuracy {100 * found:.1f} %: " in repr(run)


@pytest.mark.parametrize("row", RUNS)
def test_a_run_apart_from_its_results_is_told_what_it_needs(row: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / f"pretrain/{row}/seed0", tmp_path / "seed0")
    with pytest.raises(OSError, match=r"seed0: was copied without the results that it needs.*`ldae export`"):
        load(tmp_path / "seed0")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run.*name a folder like"):
        load(tmp_path)
