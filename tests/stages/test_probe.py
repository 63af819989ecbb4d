from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import images_of

import ldae.measures.extraction as extraction
import ldae.measures.protocol as protocol
from ldae.data.prepared import to_float
from ldae.measures.extraction import Encoders
from ldae.measures.measure import Encoded
from ldae.measures.protocol import Data, evaluate, hold_out
from ldae.runtime.files import read_json
from ldae.runtime.randomness import Randomness
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import open_data, probe, probe_pixels, probe_untrained, trained_encoders
from ldae.study.base import EncoderSize, Size
from ldae.study.recipes import Probing, Training
from ldae.study.results import Manifest
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import PretrainStage, ProbeStage, UntrainedFeatures, UntrainedStage

PROBING = Probing(mode="cached", views=2, epochs=6, warmup=1, batch=24, rates=(1.0, 10.0), extract_batch=20)


RAW = Encoders(lambda images, _: images, lambda images: [("raw", images.flatten(2).transpose(1, 2))])


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    stage = PretrainStage(
        tokenizer=Tokenizer(dim=8),
        size=Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1),
        training=Training(steps=10, batch=16, rate=0.02, warmup=0.1),
    )
    pretrain(
        stage,
        row="tiny",
        seed=0,
        revision=1,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        resume=folder / "resume",
        out=folder / "out",
    )
    return folder / "out"


def probed(prepared: Path, trained: Path, out: Path, probing: Probing = PROBING, **features: Any) -> dict[str, object]:
    probe(
        ProbeStage(probing=probing, **features),
        row="tiny",
        revision=3,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        model=trained,
        out=out,
    )
    with np.load(out / "correct.npz") as correct:
        return read_json(out / "probe.json") | dict(correct)


def test_whole_groups_are_held_out() -> None:
    groups = np.arange(100) // 5
    held = hold_out(groups, 0.1, seed=0).numpy()
    assert held.sum() == 10
    assert all(len(set(held[groups == group])) == 1 for group in range(20))
    assert hold_out(np.arange(2), 0.01, seed=0).sum() == 1
    assert hold_out(np.arange(2), 0.99, seed=0).sum() == 1


def test_a_single_group_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="held_out"):
        hold_out(np.zeros(5, dtype=np.int64), 0.1, seed=0)


def test_a_result_tells_what_it_was_made_from_and_what_it_cost(prepared: Path, trained: Path, tmp_path: Path) -> None:
    result = probed(prepared, trained, tmp_path)
    assert result["row"] == result["run"] == "tiny"
    assert list(result["lineage"]) == ["dataset", "tokenizer", "pretrain", "probe"]  # type: ignore[call-overload]
    assert result["lineage"]["probe"]["revision"] == 3  # type: ignore[index]
    assert {"seconds", "import_seconds", "peak_memory_mb", "commit", "device"} <= set(result["provenance"])  # type: ignore[call-overload]
    assert result["0/linear"].shape == result["0/knn"].shape == (24,)  # type: ignore[attr-defined]


def test_the_probe_of_an_untrained_network_needs_no_training(prepared: Path, tmp_path: Path) -> None:
    features = UntrainedFeatures(encoder=EncoderSize(width=16, heads=2, blocks=1), tokenizer=Tokenizer(dim=8))
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca"}
    found = []
    for seed in (0, 0, 1):
        stage, out = UntrainedStage(features=features, offsets=(0, 1), probing=PROBING), tmp_path / str(len(found))
        probe_untrained(stage, row="tiny", seed=seed, revision=1, out=out, **folders)
        found.append(read_json(out / "probe.json"))
    assert found[0]["blocks"] == found[1]["blocks"] != found[2]["blocks"]
    assert set(found[0]["blocks"]) == {"0", "1"} and "run" not in found[0]
    assert list(found[0]["lineage"]) == ["dataset", "tokenizer", "probe"]
    assert found[0]["lineage"] == found[2]["lineage"]


def test_the_same_probe_gives_the_same_answer(prepared: Path, trained: Path, tmp_path: Path) -> None:
    first, second = (probed(prepared, trained, tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(first["0/linear"], second["0/linear"])


def test_the_exact_mode_with_as_many_views_as_epochs_is_the_cached_one(
    prepared: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image's window follows from its place in the pass, so both passes go through the images in one order here."""
    monkeypatch.setattr(torch, "randperm", lambda num, generator, device: torch.arange(num))
    probing = PROBING.model_copy(update={"extract_batch": 12})
    cached = probed(prepared, trained, tmp_path / "cached", probing.model_copy(update={"views": 6}))
    exact = probed(prepared, trained, tmp_path / "exact", probing.model_copy(update={"mode": "exact"}))
    np.testing.assert_array_equal(cached["0/linear"], exact["0/linear"])
    assert cached["blocks"] == exact["blocks"]


def test_without_views_heads_learn_from_the_centre_crops(
    prepared: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if each augmentation had been the centre crop; and it is looked at once, for it also chooses the rate."""
    alone = PROBING.model_copy(update={"views": 0})
    looked_at = []
    windows = extraction.windows

    def noted(split: Any, images: Any, crop: Any, randomness: Randomness, *, position: int) -> torch.Tensor:
        looked_at.append((len(images), crop.view))
        return windows(split, images, crop._replace(view=None), randomness, position=position)

    monkeypatch.setattr(extraction, "windows", noted)
    once = probed(prepared, trained, tmp_path / "once", alone)
    passed = sum(num for num, _ in looked_at)
    assert {view for _, view in looked_at} == {None}
    twice = probed(prepared, trained, tmp_path / "twice", PROBING.model_copy(update={"views": 1}))
    assert once["blocks"] == twice["blocks"]
    np.testing.assert_array_equal(once["0/linear"], twice["0/linear"])
    train = len(open_data(prepared / "dataset", alone, seed=0).train)
    assert passed == train + 24
    assert sum(num for num, _ in looked_at) == passed + 2 * train + 24


def test_the_exact_mode_never_holds_more_features_than_a_batch_has(
    prepared: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PART", 20)
    extract, sizes = protocol.extract, []

    def counted(*arguments: Any, **options: Any) -> dict[str, Encoded]:
        encoded = extract(*arguments, **options)
        sizes.append(max(len(images.features) for images in encoded.values()))
        return encoded

    monkeypatch.setattr(protocol, "extract", counted)
    exact = PROBING.model_copy(update={"mode": "exact"})
    parts = probed(prepared, trained, tmp_path / "parts", exact)
    assert sizes == [24] * 12 + [20, 4] + [
        20,
        20,
        8,
    ]  # six epochs of two batches, then validation and training in parts
    monkeypatch.undo()
    whole = probed(prepared, trained, tmp_path / "whole", exact)
    assert parts["blocks"] == whole["blocks"]


def test_blocks_probed_in_one_pass_give_what_each_gives_alone(prepared: Path, trained: Path, tmp_path: Path) -> None:
    both = probed(prepared, trained, tmp_path / "both", offsets=(0, 1))
    for offset in (0, 1):
        alone = probed(prepared, trained, tmp_path / str(offset), offsets=(offset,))
        np.testing.assert_array_equal(both[f"{offset}/linear"], alone[f"{offset}/linear"])


def test_noise_on_the_input_is_that_of_its_time_and_the_same_every_time(prepared: Path, trained: Path) -> None:
    manifest, device = Manifest.read(prepared / "dataset/manifest.json"), torch.device("cpu")
    images = to_float(torch.from_numpy(images_of(prepared / "dataset", "val")))

    def latents(time: int, *, noisy: bool) -> torch.Tensor:
        stage = ProbeStage(probing=PROBING, time=time, noisy=noisy)
        encoders = trained_encoders(stage, trained, tokenizer=prepared / "pca", manifest=manifest, device=device)
        return encoders.prepare(images, Randomness(device, 0))

    clean = latents(500, noisy=False)
    torch.testing.assert_close(latents(500, noisy=True), latents(500, noisy=True), rtol=0, atol=0)
    for time in (100, 500):  # signal^2 falls linearly from 1 to 0
        power = 1 - (time + 1) / 1000
        added = latents(time, noisy=True) - power**0.5 * clean
        assert added.std().item() == pytest.approx((1 - power) ** 0.5, rel=0.05)


def test_validation_never_chooses_the_rate(prepared: Path) -> None:
    """Features that tell the class on training images and mislead on validation images: the rate must not change."""
    data = open_data(prepared / "dataset", PROBING, seed=0)
    chosen = []
    for shift in (0, 1):

        class Shifted(type(data.val)):  # type: ignore[misc]
            pass

        val = Shifted(**{**vars(data.val), "labels": (data.val.labels + shift) % 3})
        shifted = Data(data.train, val, 3, data.held_out, data.device)
        result = evaluate(RAW, shifted, PROBING, seed=0, title="raw")["raw"]["linear"]
        chosen.append((result.rate, result.held_out))
    assert chosen[0] == chosen[1]


def test_classes_that_features_tell_apart_are_told_apart(prepared: Path) -> None:
    data = open_data(prepared / "dataset", PROBING, seed=0)
    probing = PROBING.model_copy(update={"epochs": 40, "rates": (1.0, 10.0, 100.0)})

    rows = Encoders(lambda images, _: images, lambda images: [("rows", images.flatten(2))])
    result = evaluate(rows, data, probing, seed=0, title="rows")["rows"]
    assert result["linear"].value > 0.6
    assert result["knn"].value > 0.9


def test_raw_pixels_have_a_probe_of_their_own(prepared: Path, tmp_path: Path) -> None:
    probe_pixels(ProbeStage(probing=PROBING), seed=0, revision=1, dataset=prepared / "dataset", out=tmp_path)
    about = read_json(tmp_path / "probe.json")
    assert list(about["lineage"]) == ["dataset", "probe"]
    for estimate in about["blocks"]["0"].values():
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1


def test_further_measures_leave_the_others_as_they_are(prepared: Path, trained: Path, tmp_path: Path) -> None:
    usual = probed(prepared, trained, tmp_path / "usual")
    more = probed(prepared, trained, tmp_path / "more", measures=("linear", "knn", "attentive"))
    estimates = more["blocks"]["0"]  # type: ignore[index]
    attentive = estimates.pop("attentive")
    assert estimates == usual["blocks"]["0"]  # type: ignore[index]
    assert attentive["value"] == pytest.approx(more["0/attentive"].mean())  # type: ignore[attr-defined]
    assert attentive["rate"] in PROBING.rates
