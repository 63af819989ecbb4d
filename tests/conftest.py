"""What tests share; the process that only hands them out to others imports no torch for it."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manifests import write_images, write_manifest

from ldae.study.base import Size
from ldae.study.methods import MAETraining, MoCoTraining
from ldae.study.recipes import Training
from ldae.study.scale import Fitting
from ldae.study.spec import Network, Noise, Objective, Tokenizer
from ldae.study.stage_specs import BaselineStage, PretrainStage, TokenizerStage


def pytest_unconfigure() -> None:
    """A stage that ran in this process has frozen what it found, of which some libraries would say that it leaks."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    if "torch" in sys.modules:  # by a file of tests
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset/` (48 + 24 small pictures of 3 classes) and `pca/`, as the stages leave them."""
    from ldae.stages.fit_tokenizer import fit_tokenizer

    folder = tmp_path_factory.mktemp("prepared")
    dataset = folder / "dataset"
    rng = np.random.default_rng(0)
    labels = np.arange(48 + 24) % 3
    waves = np.sin(np.linspace(0, 6, 32)[:, None] * (labels[:, None, None, None] + 1))
    pictures = 128 + 60 * waves + 30 * rng.standard_normal((len(labels), 3, 32, 32))
    images = pictures.clip(0, 255).astype(np.uint8)
    write_manifest(
        dataset, sha256=write_images(dataset, images, train=48, labels=labels, groups=np.arange(len(labels)) // 2)
    )
    stage = TokenizerStage(fitting=Fitting(patches=150), shared=True)  # serves runs of any seed
    fit_tokenizer(stage, seed=0, revision=1, dataset=dataset, out=folder / "pca")
    return folder


@pytest.fixture(scope="session")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a scale with three finished runs, `ldae`, `mae` and `moco_v3`, each of two blocks at width 16."""
    from ldae.stages.pretrain import pretrain

    results = tmp_path_factory.mktemp("finished") / "results/tiny"
    (results / "tokenizers/pca").mkdir(parents=True)
    (results / "dataset").symlink_to(prepared / "dataset")
    (results / "tokenizers/pca/seed0").symlink_to(prepared / "pca")
    size = Size(width=16, heads=2, encoder_blocks=2, decoder_blocks=1)
    training = Training(steps=12, batch=16, rate=0.1, warmup=0.1)
    folders = {"dataset": results / "dataset", "resume": results / "resume"}
    about: dict[str, Any] = {"seed": 0, "revision": 1}
    row = PretrainStage(
        size=size,
        training=training,
        tokenizer=Tokenizer(dim=8),
        noise=Noise(schedule="unscaled"),
        network=Network(input="image", output="image"),
        objective=Objective(predict="clean", weight="signal", tail=0.1),
    )
    out = results / "pretrain/ldae/seed0"
    pretrain(row, row="ldae", **about, **folders, tokenizer=results / "tokenizers/pca/seed0", out=out)
    recipes = {
        "mae": MAETraining(**training.model_dump(), decoder_width=16, decoder_heads=2, decoder_blocks=1),
        "moco_v3": MoCoTraining(**training.model_dump(), hidden=16, out=8),
    }
    for method, recipe in recipes.items():
        stage = BaselineStage.model_validate({"size": size, method: recipe})
        pretrain(stage, row=method, **about, **folders, out=results / f"pretrain/{method}/seed0")
    return results
