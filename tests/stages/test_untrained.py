"""The probe of an untrained network serves several rows: it must have each one's own features, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import small_inputs
import torch
from manifests import write_manifest
from rows import STUDY, fit, images
from torch import Tensor

from ldae.data.prepared import to_float
from ldae.parts.loading import build, build_baseline
from ldae.runtime.files import checksums, write_json
from ldae.runtime.randomness import Randomness
from ldae.runtime.weights import save_weights
from ldae.stages.probe import untrained_encoders
from ldae.study.results import Manifest
from ldae.study.spec import Spec, Tokenizer
from ldae.study.stage_specs import BaselineStage, UntrainedFeatures, UntrainedStage, pretraining_stage

CPU = torch.device("cpu")
PICTURES = to_float(images(4))


@cache
def folder() -> Path:
    path = small_inputs.folder() / "untrained"
    path.mkdir()
    return path


@cache
def manifest() -> Manifest:
    return write_manifest(folder())


@cache
def fitted(tokenizer: Tokenizer) -> Path:
    """The folder of a tokenizer's fit."""
    out = folder() / f"{tokenizer.name}-{tokenizer.scale}"
    save_weights(out / "tokenizer.safetensors", fit(tokenizer))
    write_json(out / "tokenizer.json", {"sha256": checksums(out / "tokenizer.safetensors")})
    return out


def features_of(row: Spec) -> UntrainedFeatures:
    return UntrainedFeatures.of(pretraining_stage(row, STUDY.scale), row.features)


@torch.no_grad()
def before_training(row: Spec) -> Tensor:
    """The probed features of the network that a row's pretraining starts from, with all that belongs to the row."""
    stage, probed = pretraining_stage(row, STUDY.scale), row.features
    if isinstance(stage, BaselineStage):
        encoder: Any = build_baseline(stage, seed=0, image_size=32).get_submodule("encoder")
        return encoder(PICTURES)  # type: ignore[no-any-return]
    denoiser = build(stage, seed=0, tokenizer=fitted(row.tokenizer), manifest=manifest())
    denoiser.network.open_gates()
    latents = denoiser.encode(PICTURES)
    if probed.noisy:
        latents = denoiser.corrupt(latents, probed.time, Randomness(CPU, 0))
    return denoiser.features(latents, time=probed.time, offsets=[probed.offset])[0]


@torch.no_grad()
def shared(features: UntrainedFeatures, offsets: tuple[int, ...], tokenizer: Path) -> dict[str, Tensor]:
    """What the probe of an untrained network classifies, by the block."""
    stage = UntrainedStage(features=features, offsets=offsets, probing=STUDY.scale.probing)
    encoders = untrained_encoders(stage, seed=0, tokenizer=tokenizer, manifest=manifest(), device=CPU)
    return dict(encoders.encode(encoders.prepare(PICTURES, Randomness(CPU, 0))))


@pytest.mark.parametrize("row", STUDY.variants)
def test_a_shared_probe_has_the_features_of_each_of_its_rows(row: str) -> None:
    first, spec = STUDY.untrained[row], STUDY.variants[row].spec
    probe = UntrainedStage.for_job(STUDY, {"row": first})
    found = shared(probe.features, probe.offsets, fitted(STUDY.variants[first].spec.tokenizer))
    torch.testing.assert_close(found[str(spec.features.offset)], before_training(spec), rtol=0, atol=0)


IRRELEVANT: dict[str, tuple[str, dict[str, Any]]] = {  # changes of rows after which the same probe serves them
    "objective": ("pca", {"objective.predict": "clean", "objective.weight": "signal"}),
    "units and tail": ("ldae", {"objective.units": "whitened", "objective.tail": 0.3}),
    "output": ("image_input", {"network.output": "image"}),
    "labels": ("pca", {"network.labels": True}),
    "noise in training": ("pca", {"noise.schedule": "ddpm"}),
    "time": ("pca", {"features.time": 500}),
    "recipe": ("pca", {"recipe.crop": "random", "recipe.length": 3, "recipe.rate": 2, "recipe.batch": 2}),
    "recipe of a baseline": ("mae_b", {"recipe.rate": 2}),
    "a schedule of the same level": (
        "pca",
        {"noise.schedule": "single", "noise.sigma": 1.0, "features.time": 5, "features.noisy": True},
    ),
}


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_the_probe_leaves_out_changes_no_feature(name: str) -> None:
    row, changes = IRRELEVANT[name]
    before = STUDY.variants[row].spec
    if name == "a schedule of the same level":
        before = before.changed({**changes, "features.time": 700})
    after = before.changed(changes)
    assert after != before
    assert features_of(after) == features_of(before)
    torch.testing.assert_close(before_training(after), before_training(before), rtol=0, atol=0)


@pytest.mark.parametrize("decoder_blocks", [2, 5])
def test_blocks_behind_the_probed_ones_change_no_feature(decoder_blocks: int) -> None:
    size = STUDY.scale.sizes["half-L"].model_copy(update={"decoder_blocks": decoder_blocks, "conditioning": 1.0})
    scale = STUDY.scale.model_copy(update={"sizes": STUDY.scale.sizes | {"half-L": size}})
    spec = STUDY.variants["block1"].spec
    stage = pretraining_stage(spec, scale)
    assert UntrainedFeatures.of(stage, spec.features) == features_of(spec)
    denoiser = build(stage, seed=0, tokenizer=fitted(spec.tokenizer), manifest=manifest())  # type: ignore[arg-type]
    denoiser.network.open_gates()
    with torch.no_grad():
        (found,) = denoiser.features(denoiser.encode(PICTURES), time=10, offsets=[1])
    torch.testing.assert_close(found, before_training(spec), rtol=0, atol=0)


RELEVANT: dict[str, tuple[str, dict[str, Any]]] = {  # changes after which a row needs a probe of its own
    "tokenizer": ("pca", {"tokenizer.kind": "conv"}),
    "dimension": ("pca", {"tokenizer.dim": 16}),
    "scale": ("pca", {"tokenizer.scale": "dimension"}),
    "input": ("pca", {"network.input": "image"}),
    "size": ("pca", {"network.size": "B"}),
    "noise": ("pca", {"features.noisy": True}),
    "method": ("mae_b", {"method.name": "moco_v3"}),
    "size of a baseline": ("mae_b", {"network.size": "L"}),
}


@pytest.mark.parametrize("name", RELEVANT)
def test_what_changes_features_changes_the_probe(name: str) -> None:
    row, changes = RELEVANT[name]
    before = STUDY.variants[row].spec
    after = before.changed(changes)
    assert features_of(after) != features_of(before)
    first, second = before_training(before), before_training(after)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_rows_that_differ_in_their_training_share_one_probe() -> None:
    assert {STUDY.untrained[row] for row in ("pca", "predict_clean", "no_scaling")} == {"pca"}
    on_images = (
        "image_input",
        "image_output",
        "ldae",
        "single_level",
        "random_crop",
        "longer",
        "block1",
        "time_clean0",
    )
    assert {STUDY.untrained[row] for row in on_images} == {"image_input"}
    assert STUDY.untrained["no_labels"] == "dit"
    assert STUDY.untrained["time_noisy20"] == "time_noisy20"
