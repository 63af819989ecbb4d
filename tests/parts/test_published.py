"""Published weights as rows: small files made here, in the authors' names, against their networks written plainly."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph import Graph
from manifests import images_of
from rows import ROOT, fit
from safetensors.torch import save_file
from test_network import PublishedDiT, shaken
from torch import Tensor, nn

from ldae.data.prepared import to_float
from ldae.parts.folding import fold
from ldae.parts.loading import open_baseline, open_denoiser, stage_of
from ldae.parts.noise import NoiseSchedule
from ldae.parts.tokenizers.conv import ConvTokenizer
from ldae.parts.untrained import untrained_encoder
from ldae.runtime.files import checksums, read_json, sha256, write_json
from ldae.runtime.weights import read_weights
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe, probe_untrained
from ldae.stages.sample import sample
from ldae.study.checking import StudyError
from ldae.study.graph import Graph as StudyGraph
from ldae.study.recipes import Probing
from ldae.study.results import Manifest, RunRecord
from ldae.study.scale import Sampling, Scale
from ldae.study.spec import Features, PublishedWeights, Spec
from ldae.study.stage_specs import (
    AdoptStage,
    BaselineStage,
    ProbeStage,
    SampleStage,
    UntrainedFeatures,
    UntrainedStage,
    pretraining_stage,
)
from ldae.study.study import Study

DIT = {"width": 32, "heads": 4, "blocks": 3}
MAE = {"width": 32, "heads": 2, "blocks": 2}
PROBE = ProbeStage(probing=Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,)))
SPEC = Spec().changed(
    {
        "tokenizer.kind": "conv",
        "tokenizer.dim": 16,
        "tokenizer.perceptual": True,
        "tokenizer.adversarial": True,
        "tokenizer.scale": "published",
        "noise.schedule": "ddpm",
        "network.labels": True,
    }
)
Change = Callable[[dict[str, Tensor]], None]


def start_of(model: Path) -> UntrainedFeatures:
    """What the features of a run's network with random weights depend on."""
    return UntrainedFeatures.of(stage_of(RunRecord.read(model / "run.json")), Features())


def published_dit(classes: int = 3, image_size: int = 32) -> PublishedDiT:
    """A small DiT on the latents of small images, random everywhere but in its position table."""
    network = PublishedDiT(
        size=image_size // 8, patch=2, channels=4, width=32, depth=3, heads=4, classes=classes
    ).requires_grad_(False)
    table = network.pos_embed.data
    shaken(network).pos_embed.data = table
    return network


def published_mae(image_size: int = 32) -> nn.Module:
    """timm's Vision Transformer as MAE's authors use it, random everywhere."""
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(
        img_size=image_size, patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool=""
    )
    return shaken(network).requires_grad_(False)


def written(folder: Path, stored: dict[str, Any], sizes: dict[str, int], name: str = "weights.pt") -> PublishedWeights:
    """Weights in a file of torch's or safetensors'."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(stored, path)
    else:
        torch.save(stored, path)
    return PublishedWeights(path=str(path), sha256=sha256(path), **sizes)


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small convolutional tokenizer."""
    folder = tmp_path_factory.mktemp("vae")
    save_file(
        {name: tensor.contiguous() for name, tensor in fit(SPEC.tokenizer).items()}, folder / "tokenizer.safetensors"
    )
    lineage = {"dataset": {"revision": 1, "spec": {}}, "tokenizer": {"revision": 1, "spec": {}}}
    write_json(folder / "tokenizer.json", {"lineage": lineage, "sha256": checksums(folder / "tokenizer.safetensors")})
    return folder


def adopted_dit(prepared: Path, vae: Path, folder: Path, weights: PublishedWeights) -> Path:
    row = SPEC.changed({"method.weights": weights.model_dump()})
    scale = Study.load(ROOT, {"scale": "smoke"}).scale
    out = folder / "dit"
    folders = {"dataset": prepared / "dataset", "tokenizer": vae, "out": out}
    pretrain(pretraining_stage(row, scale), row="dit", seed=0, revision=1, **folders)
    return out


def adopted_mae(prepared: Path, folder: Path, weights: PublishedWeights) -> Path:
    row = Spec().changed({"method.name": "mae", "method.weights": weights.model_dump()})
    scale = Study.load(ROOT, {"scale": "smoke"}).scale
    out = folder / "mae"
    pretrain(pretraining_stage(row, scale), row="mae", seed=0, revision=1, dataset=prepared / "dataset", out=out)
    return out


def pictures(prepared: Path) -> Tensor:
    return to_float(torch.from_numpy(images_of(prepared / "dataset", "val")[:4]))


@pytest.mark.parametrize("nested", ["", "ema", "model"])
def test_a_published_dit_gives_the_features_and_the_noise_of_its_own_network(
    nested: str, prepared: Path, vae: Path, tmp_path: Path
) -> None:
    theirs = published_dit()
    state: dict[str, Any] = {nested: theirs.state_dict()} if nested else dict(theirs.state_dict())
    model = adopted_dit(prepared, vae, tmp_path, written(tmp_path, state, DIT | {"classes": 3}))
    manifest = Manifest.read(prepared / "dataset/manifest.json")
    ours = open_denoiser(model, vae, manifest, weights="ema")
    images = pictures(prepared)
    assert isinstance(ours.tokenizer, ConvTokenizer)
    latents = 0.18215 * ours.tokenizer.autoencoder.posterior(images)[0]  # (N, 4, 4, 4), as the authors' code has them
    seen: list[Tensor] = []
    middle = theirs.blocks[1]  # the first after the encoder's one block of three
    middle.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    time, null = torch.full((4,), 10), torch.full((4,), 3)
    output = theirs(latents, time, null)[:, :4]  # the noise, without the variance
    torch.testing.assert_close(ours.features(ours.encode(images), time=10)[0], seen[0], rtol=1e-4, atol=1e-4)
    level = NoiseSchedule(SPEC.noise).level(time)
    noisy = ours.encode(images)
    clean = ours.predict_clean(noisy, time)
    noise = (noisy - level.signal * clean) / level.noise  # (N, T, 16)
    expected = output.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    torch.testing.assert_close(noise, expected, rtol=1e-3, atol=1e-3)


def test_a_published_dit_is_probed_and_sampled_from_like_a_row(prepared: Path, vae: Path, tmp_path: Path) -> None:
    weights = written(tmp_path, dict(published_dit().state_dict()), DIT | {"classes": 3}, "dit.safetensors")
    model = adopted_dit(prepared, vae, tmp_path, weights)
    folders = {"dataset": prepared / "dataset", "tokenizer": vae, "model": model}
    probe(PROBE, row="dit", revision=1, out=tmp_path / "probe", **folders)
    found = read_json(tmp_path / "probe/probe.json")
    assert set(found["blocks"]) == {"0"}
    untrained = UntrainedStage(features=start_of(model), probing=PROBE.probing)
    images = {"dataset": prepared / "dataset", "tokenizer": vae}
    probe_untrained(untrained, row="dit", seed=0, revision=1, out=tmp_path / "untrained", **images)
    assert untrained.features.encoder.blocks == 1 and untrained.features.tokenizer.scale == "published"
    assert "training_flops" not in found
    assert found["lineage"]["pretrain"]["spec"]["weights"]["sha256"] == weights.sha256
    stage = SampleStage(sampling=Sampling(num=100, steps=2, batch=50))
    sample(stage, row="dit", revision=1, out=tmp_path / "samples", **folders)
    assert np.load(tmp_path / "samples/samples.npy").shape == (100, 3, 32, 32)


def test_a_dit_of_other_classes_is_probed_and_refuses_to_sample(prepared: Path, vae: Path, tmp_path: Path) -> None:
    weights = written(tmp_path, dict(published_dit(classes=7).state_dict()), DIT | {"classes": 7})
    folders = {
        "dataset": prepared / "dataset",
        "tokenizer": vae,
        "model": adopted_dit(prepared, vae, tmp_path, weights),
    }
    probe(PROBE, row="dit", revision=1, out=tmp_path / "probe", **folders)
    with pytest.raises(ValueError, match="dit: its network knows 7 classes, the data set has 3"):
        sample(SampleStage(sampling=Sampling(num=100, steps=2)), row="dit", revision=1, out=tmp_path, **folders)


def expected_features(theirs: nn.Module, images: Tensor) -> Tensor:
    """The mean of the patch tokens after MAE's last block, of images (N, 3, S, S) in [-1, 1]."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    seen: list[Tensor] = []
    handle = theirs.get_submodule("norm").register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs(x)
    handle.remove()
    return seen[0][:, 1:].mean(1)


def with_decoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as a pretraining of MAE saves it."""
    return state | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 32)}


@pytest.mark.parametrize("whole", [False, True])
def test_a_published_mae_gives_the_mean_of_its_last_blocks_patch_tokens(
    whole: bool, prepared: Path, tmp_path: Path
) -> None:
    theirs, images = published_mae(), pictures(prepared)
    state = dict(theirs.state_dict())
    weights = written(tmp_path, {"model": with_decoder(state) if whole else state}, MAE, "mae.pth")
    model = adopted_mae(prepared, tmp_path, weights)
    encoder = open_baseline(model, 32)
    torch.testing.assert_close(encoder(images).mean(1), expected_features(theirs, images), rtol=1e-4, atol=1e-4)
    probe(PROBE, row="mae", revision=1, dataset=prepared / "dataset", model=model, out=tmp_path / "probe")
    with np.load(tmp_path / "probe/correct.npz") as found:
        assert "0/linear" in found
    features = start_of(model)
    assert features.has_class_token
    random = untrained_encoder(features, seed=0, image_size=32)
    shapes = {name: tensor.shape for name, tensor in random.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    with pytest.raises(ValueError, match="class token"):
        fold(encoder, time=10, offset=0)


def test_positions_of_another_image_size_are_interpolated_as_timm_does(prepared: Path, tmp_path: Path) -> None:
    from timm.layers import resample_abs_pos_embed

    theirs, images = published_mae(image_size=48), pictures(prepared)
    model = adopted_mae(prepared, tmp_path, written(tmp_path, dict(theirs.state_dict()), MAE))
    encoder = open_baseline(model, 32)
    smaller = published_mae()
    table = resample_abs_pos_embed(theirs.state_dict()["pos_embed"], [2, 2], num_prefix_tokens=1)
    smaller.load_state_dict(theirs.state_dict() | {"pos_embed": table})
    torch.testing.assert_close(encoder(images).mean(1), expected_features(smaller, images), rtol=1e-4, atol=1e-4)


def rename(state: dict[str, Tensor], old: str, new: str) -> None:
    state[new] = state.pop(old)


DIT_MISTAKES: dict[str, tuple[Change, str]] = {
    "absent": (lambda s: s.pop("blocks.1.mlp.fc1.bias"), r"blocks\.1\.mlp\.fc1\.bias is absent, expected \(128,\)"),
    "renamed": (lambda s: rename(s, "blocks.0.attn.qkv.weight", "x"), r"blocks\.0\.attn\.qkv\.weight is absent"),
    "more": (lambda s: s.update(extra=torch.zeros(2)), r"extra is \(2,\), expected nothing of this name"),
    "deeper": (lambda s: s.update({"blocks.3.a": torch.zeros(1)}), r"blocks\.3\.a is \(1,\), expected nothing"),
    "wider": (
        lambda s: s.update({"t_embedder.mlp.0.weight": torch.zeros(48, 256)}),
        r"\(48, 256\), expected \(32, 256\)",
    ),
    "one kind of output": (
        lambda s: s.update({"final_layer.linear.weight": torch.zeros(16, 32)}),
        r"final_layer\.linear\.weight is \(16, 32\), expected \(32, 32\)",
    ),
    "other images": (lambda s: s.update(pos_embed=torch.zeros(1, 256, 32)), r"dataset\.size: 256"),
    "a learnt table": (lambda s: s["pos_embed"].add_(0.1), "pos_embed is not its fixed table"),
    "nothing": (lambda s: s.clear(), r"pos_embed is absent"),
    "another network": (lambda s: s.pop("pos_embed"), r"a DiT of width 32 and 3 blocks: pos_embed is absent"),
}


@pytest.mark.parametrize(("change", "said"), DIT_MISTAKES.values(), ids=DIT_MISTAKES)
def test_weights_that_are_no_such_dit_are_refused_by_the_first_that_differs(
    change: Change, said: str, prepared: Path, vae: Path, tmp_path: Path
) -> None:
    state = {name: tensor.clone() for name, tensor in published_dit().state_dict().items()}
    change(state)
    weights = written(tmp_path, state, DIT | {"classes": 3})
    with pytest.raises(ValueError, match=f"{re.escape(weights.path)}: .*{said}") as caught:
        adopted_dit(prepared, vae, tmp_path, weights)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dit").exists()


MAE_MISTAKES: dict[str, tuple[Change, str]] = {
    "absent": (lambda s: s.pop("norm.bias"), r"norm\.bias is absent, expected \(32,\)"),
    "fine-tuned": (lambda s: s.update({"head.weight": torch.zeros(1000, 32)}), r"head\.weight is \(1000, 32\)"),
    "other patches": (
        lambda s: s.update({"patch_embed.proj.weight": torch.zeros(32, 3, 14, 14)}),
        r"patch_embed\.proj\.weight is \(32, 3, 14, 14\), expected \(32, 3, 16, 16\)",
    ),
    "no square": (lambda s: s.update(pos_embed=torch.zeros(1, 6, 32)), r"pos_embed is \(1, 6, 32\)"),
}


@pytest.mark.parametrize(("change", "said"), MAE_MISTAKES.values(), ids=MAE_MISTAKES)
def test_weights_that_are_no_such_encoder_are_refused_by_the_first_that_differs(
    change: Change, said: str, prepared: Path, tmp_path: Path
) -> None:
    state = dict(published_mae().state_dict())
    change(state)
    with pytest.raises(ValueError, match=rf"weights\.pt: .*{said}"):
        adopted_mae(prepared, tmp_path, written(tmp_path, state, MAE))


def test_the_options_of_a_training_may_stand_beside_its_weights(tmp_path: Path) -> None:
    """As `argparse` leaves them, in the files of DiT and MAE."""
    options = argparse.Namespace(lr=1e-4, output_dir="out", betas=(0.9, 0.95), resume=None)
    torch.save({"model": {"a": torch.ones(2)}, "args": options, "epoch": 3}, tmp_path / "a.pth")
    state = read_weights(tmp_path / "a.pth", sha256(tmp_path / "a.pth"))
    assert list(state) == ["a"]


def test_a_file_that_is_absent_or_another_or_more_than_tensors_is_one_line(prepared: Path, tmp_path: Path) -> None:
    state = dict(published_mae().state_dict())
    weights = written(tmp_path, state, MAE)
    with pytest.raises(ValueError, match=rf"has sha256 {weights.sha256}, expected {'0' * 64}"):
        adopted_mae(prepared, tmp_path, weights.model_copy(update={"sha256": "0" * 64}))
    with pytest.raises(OSError, match=r"nowhere\.pt: does not exist"):
        adopted_mae(prepared, tmp_path, weights.model_copy(update={"path": str(tmp_path / "nowhere.pt")}))
    weights = written(tmp_path, {"model": state, "args": argparse.Namespace(out=Path("a"))}, MAE)
    with pytest.raises(
        ValueError, match=r"weights\.pt: contains pathlib\.\S+ in addition to tensors.*only its state dict"
    ) as caught:
        adopted_mae(prepared, tmp_path, weights)
    assert str(caught.value).isprintable()
    (tmp_path / "x.safetensors").write_bytes(b"12345678 no such thing")
    broken = PublishedWeights(path=str(tmp_path / "x.safetensors"), sha256=sha256(tmp_path / "x.safetensors"), **MAE)
    with pytest.raises(ValueError, match=r"x\.safetensors: contains no plain tensors"):
        adopted_mae(prepared, tmp_path, broken)


FILE = f"{{path: ~/w.pt, sha256: {'0a' * 32}, width: 1152, heads: 16, blocks: 28}}"
ROWS = f"""
  dit_xl:
    from: dit
    label: DiT-XL/2 (published)
    set: {{tokenizer.scale: published, method.weights: {FILE}}}
  mae_b:
    from: mae
    label: MAE, ViT-B (published)
    set: {{method.weights: {{path: ~/m.pth, sha256: {"1a" * 32}, width: 768, heads: 12, blocks: 12}}}}
"""


def study(folder: Path, rows: str = ROWS, *, vae: bool = True, shown: str = "dit_xl, mae_b, dit") -> Path:
    """A study with published rows and a scale of its own, in a folder."""
    text = (ROOT / "tests/every_rule.yaml").read_text()
    text = text.replace("\nsweeps:", f"{rows}\nsweeps:").replace("rows: [dit, pca, mae,", f"rows: [{shown}, pca, mae,")
    (folder / "config.yaml").write_text(text)
    (folder / "scales").mkdir(exist_ok=True)
    scale = (ROOT / "scales/smoke.yaml").read_text()
    if vae:
        file = f"published: {{path: ~/vae.pt, sha256: {'2a' * 32}}}"
        scale = scale.replace("discriminator_width: 8", f"discriminator_width: 8, {file}")
    (folder / "scales/smoke.yaml").write_text(scale)
    return folder


def test_published_rows_are_planned_and_probed_like_the_others(tmp_path: Path) -> None:
    graph = Graph.fresh(tmp_path, "every_rule.yaml")
    study(tmp_path)
    planned = graph.planned("table1")
    assert planned["pretrain"] == 6  # two published ones among them
    assert planned["probe"] == 6


def test_the_size_of_published_weights_is_their_own(tmp_path: Path) -> None:
    found = Study.load(study(tmp_path), {})
    dit, mae = found.pretraining("dit_xl"), found.pretraining("mae_b")
    assert isinstance(dit, AdoptStage) and isinstance(mae, BaselineStage)
    assert (dit.size.width, dit.size.encoder_blocks, dit.size.decoder_blocks, dit.size.conditioning) == (
        1152,
        14,
        14,
        1,
    )
    assert (mae.size.width, mae.size.heads, mae.size.encoder_blocks) == (768, 12, 12)
    for stage in (dit, mae):
        assert type(stage).model_validate_json(stage.to_json()) == stage


def test_the_training_of_other_rows_concerns_no_published_one(tmp_path: Path) -> None:
    before = Study.load(study(tmp_path), {})
    scale = tmp_path / "scales/smoke.yaml"
    scale.write_text(
        scale.read_text().replace("steps: 40", "steps: 41").replace("width: 32, heads: 2", "width: 64, heads: 2")
    )
    after = Study.load(tmp_path, {})
    assert before.pretraining("pca") != after.pretraining("pca")
    lineages = [{place: job.lineage for place, job in StudyGraph(study).jobs.items()} for study in (before, after)]
    for row in ("dit_xl", "mae_b"):
        assert lineages[0][f"pretrain/{row}/seed0"] == lineages[1][f"pretrain/{row}/seed0"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tokenizer.scale: published, ", "", ["dit_xl.set", "tokenizer.scale is 'published'", "'global'"]),
        ("from: dit\n    label: DiT-XL", "from: pca\n    label: DiT-XL", ["dit_xl.set", "tokenizer.scale", "'conv'"]),
        ("heads: 16", "heads: 7", ["dit_xl.set", "heads: 7", "1152"]),
        ("width: 1152, ", "", ["dit_xl.set", "width", "missing"]),
        ("sha256: 0", "sha256: x", ["dit_xl.set", "sha256", "x"]),
        ("method.weights: {path: ~/m", "method.name: moco_v3, method.weights: {path: ~/m", ["mae_b.set", "'mae'"]),
        ("label: MAE, ViT-B (published)", "label: x\n    finetune: true", ["mae_b", "probed as they are"]),
    ],
)
def test_a_mistake_in_a_published_row_is_told_by_name(old: str, new: str, words: list[str], tmp_path: Path) -> None:
    assert old in ROWS
    with pytest.raises(StudyError) as caught:
        Study.load(study(tmp_path, ROWS.replace(old, new, 1)), {})
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and all(word in text for word in ["config.yaml", *words]), text


def test_a_published_dit_wants_the_published_vae(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"variants\.dit_xl: .*convolutional\.published"):
        Study.load(study(tmp_path, vae=False), {})


def test_published_rows_have_no_training_curves(tmp_path: Path) -> None:
    folder = study(tmp_path)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(
        text.replace('title: "Training", rows: [dit,', 'title: "Training", rows: [dit_xl,')
    )
    with pytest.raises(StudyError, match=r"figures\.training: 'dit_xl' was not trained here"):
        Study.load(folder, {})


def test_a_scale_s_own_sizes_are_those_of_rows_that_it_trains() -> None:
    scale: Scale = Study.load(ROOT, {"scale": "smoke"}).scale
    assert scale.size_of(Spec()) == scale.sizes["half-L"]
