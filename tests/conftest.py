from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ldae.arrays import save_row_sums
from ldae.files import sums_of, write_json
from ldae.fit_tokenizer import fit_tokenizer
from ldae.spec import Fitting, TokenizerStage

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dataset/` (48 + 24 small pictures of 3 classes) and `pca/`, as the stages leave them."""
    folder = tmp_path_factory.mktemp("prepared")
    dataset = folder / "dataset"
    dataset.mkdir()
    rng = np.random.default_rng(0)
    for split, num in (("train", 48), ("val", 24)):
        labels = np.arange(num) % 3
        waves = np.sin(np.linspace(0, 6, 32)[:, None] * (labels[:, None, None, None] + 1))
        pictures = 128 + 60 * waves + 30 * rng.standard_normal((num, 3, 32, 32))
        np.save(dataset / f"{split}.npy", pictures.clip(0, 255).astype(np.uint8))
        np.save(dataset / f"{split}_labels.npy", labels)
        np.save(dataset / f"{split}_groups.npy", np.arange(num) // 2)
        save_row_sums(dataset / f"{split}.npy")
    lineage = {"dataset": {"revision": 1, "spec": {}}}
    sums = sums_of(*(dataset / f"{split}_{what}.npy" for split in ("train", "val") for what in ("labels", "groups")))
    about = {"size": 32, "classes": ["a", "b", "c"], "lineage": lineage, "sha256": sums}
    write_json(dataset / "manifest.json", about)
    stage = TokenizerStage(fitting=Fitting(patches=150))
    fit_tokenizer(stage, revision=1, dataset=dataset, out=folder / "pca")
    return folder
