"""The exported encoder is the row's own, in timm's hands alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import timm
import torch
from manifests import images_of
from PIL import Image
from rows import FITTED, ROOT, SIZE, TRAINING, VARIANTS, denoiser, fit, images
from safetensors.torch import load_file
from torch import Tensor, nn

from ldae import cli, load
from ldae.data.division import Division, SplitName
from ldae.data.prepared import to_float
from ldae.parts.denoiser import Denoiser
from ldae.parts.folding import Folded, fold
from ldae.parts.loading import open_finished, stage_of
from ldae.runtime.files import read_json
from ldae.stages.export import ARCHITECTURE, accuracy, export, timm_config
from ldae.stages.fit_tokenizer import fit_tokenizer
from ldae.stages.prepare import prepare
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe, probe_untrained
from ldae.study.checking import StudyError
from ldae.study.recipes import Probing, Training
from ldae.study.scale import Fitting, Photos
from ldae.study.spec import Features, Spec
from ldae.study.stage_specs import (
    DatasetStage,
    PretrainStage,
    ProbeStage,
    TokenizerStage,
    UntrainedFeatures,
    UntrainedStage,
)

AFFINE = [row for row, variant in VARIANTS.items() if variant.spec.tokenizer.traits.linear]
RUNS = ("ldae", "mae", "moco_v3")

# what a person does with the folder, in a process that has never heard of the project
USE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ldae":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
try:
    import ldae
    sys.exit("ldae can be imported")
except ModuleNotFoundError:
    pass

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

torch.set_num_threads(1)
folder = sys.argv[1]
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
features, labels = {}, {}
with torch.inference_mode():
    for split in ("train", "val"):
        pictures = np.load(f"{folder}/{split}.npy")
        images = torch.stack([prepare(Image.fromarray(picture.transpose(1, 2, 0))) for picture in pictures])
        features[split] = torch.cat([model(batch) for batch in images.split(256)]).numpy()
        labels[split] = np.load(f"{folder}/{split}_labels.npy")
np.save(f"{folder}/features.npy", features["val"])
classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
print(classifier.fit(features["train"], labels["train"]).score(features["val"], labels["val"]))
"""


def used_by_timm_alone(folder: Path, dataset: Path) -> float:
    """The accuracy of logistic regression on the exported encoder's features, in a process without `ldae`."""
    for split in get_args(SplitName):
        np.save(folder / f"{split}.npy", images_of(dataset, split))
        np.save(folder / f"{split}_labels.npy", Division.open(dataset, split, 0).labels)
    command = [sys.executable, "-I", "-c", USE, str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return float(said.stdout)


def randomise(module: nn.Module) -> None:
    """Gives all weights a part in the result: adaLN-zero starts as the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            deviation = 0.7 / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)


def as_timm(folded: Folded) -> nn.Module:
    arguments: dict[str, Any] = timm_config(folded, 16 * folded.grid, "x")["model_args"]
    model = timm.create_model(ARCHITECTURE, num_classes=0, **arguments)
    model.load_state_dict(folded.state)
    return model.eval()


@torch.no_grad()
def assert_folds(model: Denoiser, *, time: int = 10, offset: int = 0) -> None:
    data = to_float(images())
    (expected,) = model.features(model.encode(data), time=time, offsets=[offset])  # (N, T, h)
    exported = as_timm(fold(model, time=time, offset=offset))
    assert expected.std() > 0.1
    torch.testing.assert_close(exported.forward_features(data), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(exported(data), expected.mean(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row", AFFINE)
def test_a_folded_row_computes_what_the_row_does(row: str) -> None:
    _, model = denoiser(row)
    randomise(model)
    assert_folds(model)


@pytest.mark.parametrize(("time", "offset"), [(0, 0), (80, 1), (999, -1)])
def test_time_and_block_are_chosen(time: int, offset: int) -> None:
    size = SIZE.model_copy(update={"encoder_blocks": 2})
    stage = PretrainStage(size=size, training=TRAINING)
    model = Denoiser(stage, FITTED.setdefault("pca", fit(stage.tokenizer)), image_size=32, classes=3)
    randomise(model)
    assert_folds(model, time=time, offset=offset)
    assert fold(model, time=time, offset=offset).depth == 2 + offset
    if time:
        other = fold(model, time=0, offset=offset).state["blocks.0.norm1.bias"]
        assert not torch.allclose(fold(model, time=time, offset=offset).state["blocks.0.norm1.bias"], other)


def test_a_row_with_labels_is_folded_with_the_null_label_as_it_is_probed() -> None:
    stage = PretrainStage(size=SIZE, training=TRAINING, network=Spec().changed({"network.labels": True}).network)
    model = Denoiser(stage, FITTED.setdefault("pca", fit(stage.tokenizer)), image_size=32, classes=3)
    randomise(model)
    assert_folds(model)
    assert model.network.label is not None
    folded = fold(model, time=10, offset=0)
    model.network.label.weight.data[3] += 1
    assert not torch.allclose(
        fold(model, time=10, offset=0).state["blocks.0.norm1.bias"], folded.state["blocks.0.norm1.bias"]
    )


def test_an_untouched_network_is_left_as_it_was() -> None:
    _, model = denoiser("ldae")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model, time=10, offset=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())


def test_convolutional_tokens_are_refused_with_the_reason() -> None:
    _, model = denoiser("conv_vae")
    with pytest.raises(ValueError, match=r"no patch embedding.*'pca' or 'pixel'"):
        fold(model, time=10, offset=0)


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for run in RUNS:
        export(finished / f"pretrain/{run}/seed0", out=folder / run, features=Features(), about={"label": "a label"})
    return folder


def pictures(finished: Path) -> Tensor:
    return torch.from_numpy(images_of(finished / "dataset", "val"))


@pytest.mark.parametrize("run", RUNS)
def test_timm_loads_the_folder_as_a_plain_vision_transformer(run: str, exported: Path, finished: Path) -> None:
    model = timm.create_model(f"local-dir:{exported / run}", pretrained=True).eval()
    assert type(model) is timm.models.vision_transformer.VisionTransformer
    own, data = load(finished / f"pretrain/{run}/seed0"), pictures(finished)
    preparation = timm.data.resolve_model_data_config(model)
    assert preparation["input_size"] == (3, 32, 32)
    mean, std = (torch.tensor(preparation[name]).view(3, 1, 1) for name in ("mean", "std"))
    given = (data / 255 - mean) / std
    torch.testing.assert_close(given, own.preprocess(data).cpu(), rtol=0, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model(given), own.encode(data).cpu(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.forward_features(given), own.tokens(data).cpu(), rtol=1e-5, atol=1e-5)
        maps = model.forward_intermediates(given, intermediates_only=True)
        first = own.tokens(data, offset=-1).cpu()
        torch.testing.assert_close(maps[0].flatten(2).mT, first, rtol=1e-5, atol=1e-5)
        assert torch.equal(model.get_intermediate_layers(given, n=1)[0], model.forward_features(given))


def test_other_sizes_heads_and_channels_are_timms_to_adapt(exported: Path) -> None:
    name = f"local-dir:{exported / 'ldae'}"
    larger = timm.create_model(name, pretrained=True, img_size=64).eval()
    assert larger.forward_features(torch.zeros(1, 3, 64, 64)).shape == (1, 16, 16)
    given = timm.create_model(name, pretrained=True)
    torch.testing.assert_close(larger.pos_embed.mean(1), given.pos_embed.mean(1), rtol=0, atol=0.1)
    assert not torch.equal(larger.pos_embed[:, :4], given.pos_embed)
    dynamic = timm.create_model(name, pretrained=True, dynamic_img_size=True).eval()
    assert dynamic(torch.zeros(1, 3, 48, 80)).shape == (1, 16)
    headed = timm.create_model(name, pretrained=True, num_classes=5).eval()
    assert headed(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert torch.equal(headed.patch_embed.proj.weight, given.patch_embed.proj.weight)
    grey = timm.create_model(name, pretrained=True, in_chans=1).eval()
    assert grey(torch.zeros(1, 1, 32, 32)).shape == (1, 16)


def test_the_card_says_what_it_is(exported: Path) -> None:
    card = (exported / "ldae/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: timm\n")
    for words in (
        "`ldae`, seed 0",
        "a label",
        "t = 10",
        "3 classes",
        "not measured",
        '"tail": 0.1',
        "Apache-2.0",
        "1.0.16",
    ):
        assert words in card
    assert "time step" not in (exported / "mae/README.md").read_text()
    config = json.loads((exported / "ldae/config.json").read_text())
    assert config["model_args"]["depth"] == 2


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("options", ["", ", img_size=64"])
@pytest.mark.parametrize("shape", [(97, 70), (200, 133), (32, 32)])
def test_the_card_s_recipe_works_and_gives_the_study_s_own_pixels(
    run: str, options: str, shape: tuple[int, int], exported: Path, finished: Path, tmp_path: Path
) -> None:
    card = (exported / run / "README.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    pixels = np.random.default_rng(0).integers(256, size=(*shape, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    recipe = recipe.replace("picture.jpg", str(tmp_path / "picture.png"))
    recipe = recipe.replace("pretrained=True", f"pretrained=True{options}")
    found: dict[str, Any] = {}
    exec(recipe, found)
    if not options:
        own = load(finished / f"pretrain/{run}/seed0")
        torch.testing.assert_close(found["images"], own.preprocess(tmp_path / "picture.png").cpu(), rtol=0, atol=1e-6)
    assert found["model"](found["images"]).shape == (1, 16)


def test_an_encoder_of_one_block_has_a_recipe_too(finished: Path, tmp_path: Path) -> None:
    export(finished / "pretrain/ldae/seed0", out=tmp_path / "a", features=Features(offset=-1), about={})
    (line,) = [line for line in (tmp_path / "a/README.md").read_text().splitlines() if "features_only" in line]
    found: dict[str, Any] = {"timm": timm, "images": torch.zeros(1, 3, 32, 32)}
    exec(f"maps = {line.strip()}", found)
    assert [tuple(part.shape) for part in found["maps"]] == [(1, 16, 2, 2)]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (Features(noisy=True), "ldae: is probed with noise on its input"),
        (Features(offset=2), r"ldae cannot be exported: offset: \+2 is not a block; .* there are -1 to \+1"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(
    features: Features, words: str, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        export(finished / "pretrain/ldae/seed0", out=tmp_path / "out", features=features, about={})
    assert not (tmp_path / "out").exists()


def test_a_runs_own_weights_are_never_written_over(finished: Path) -> None:
    run = finished / "pretrain/ldae/seed0"
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds a trained run"):
        export(run, out=run, features=Features(), about={})
    assert (run / "model.safetensors").read_bytes() == before


def test_a_readme_of_something_else_is_never_written_over(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="holds a README.md of something else"):
        export(finished / "pretrain/ldae/seed0", out=tmp_path, features=Features(), about={})
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.graph
def test_timm_alone_reaches_the_probes_accuracy(tmp_path: Path) -> None:
    """The whole way, on photographs: images, tokenizer, training, probe, export, logistic regression elsewhere."""
    results = tmp_path / "results/tiny"
    dataset, tokenizer, model = (results / name for name in ("dataset", "tokenizers/pca/seed0", "pretrain/ldae/seed0"))
    images = Photos(source="photos", size=64, train=800, val=400)
    prepare(DatasetStage(dataset=images), revision=1, out=dataset, workers=1)
    fit_tokenizer(TokenizerStage(fitting=Fitting(patches=4000)), seed=0, revision=1, dataset=dataset, out=tokenizer)
    spec = VARIANTS["ldae"].spec.model_dump(exclude={"features", "method"})
    training = Training(steps=60, batch=32, rate=0.016, warmup=0.1)
    folders = {"dataset": dataset, "tokenizer": tokenizer, "resume": tmp_path / "resume", "out": model}
    pretrain(PretrainStage(**spec, size=SIZE, training=training), row="ldae", seed=0, revision=1, **folders)
    probing = Probing(mode="cached", views=1, epochs=90, batch=256, rates=(0.3, 3.0, 30.0))
    folders = {"dataset": dataset, "tokenizer": tokenizer, "model": model, "out": results / "probe/ldae/seed0"}
    probe(ProbeStage(probing=probing), row="ldae", revision=1, **folders)
    export(model, out=tmp_path / "encoder", features=Features(), about={})

    theirs = used_by_timm_alone(tmp_path / "encoder", dataset)
    found = read_json(results / "probe/ldae/seed0/probe.json")["blocks"]["0"]["linear"]
    assert found["low"] <= theirs <= found["high"]
    own = load(model).encode(torch.from_numpy(images_of(dataset, "val"))).cpu().numpy()
    np.testing.assert_allclose(np.load(tmp_path / "encoder/features.npy"), own, rtol=1e-5, atol=1e-5)
    assert f"| {100 * found['value']:.1f} % (95 % interval" in (tmp_path / "encoder/README.md").read_text()


def test_a_model_card_has_the_accuracy_of_random_weights_if_it_was_measured(finished: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name in ("dataset", "tokenizers", "pretrain"):
        (results / name).symlink_to(finished / name)
    run = open_finished(results / "pretrain/ldae/seed0")
    features, folders = (
        Features(time=40),
        {"dataset": results / "dataset", "tokenizer": results / "tokenizers/pca/seed0"},
    )
    assert accuracy(run, features) == "not measured"
    probing = Probing(mode="cached", views=0, epochs=3, rates=(1.0,), batch=24, warmup=1)
    trained = ProbeStage(time=40, probing=probing)
    out = results / "probe/ldae/seed0"
    probe(trained, row="ldae", revision=1, **folders, model=run.folder, out=out)
    assert accuracy(run, features).endswith(")")
    for row, features_there in (("pca", {"noise": 0.5}), ("image_input", {})):  # other rows', and one that it shares
        start = UntrainedFeatures.of(stage_of(run.run), features).model_copy(update=features_there)
        stage = UntrainedStage(features=start, probing=probing)
        probe_untrained(stage, row=row, seed=0, revision=1, **folders, out=results / f"untrained/{row}/seed0")
    found = read_json(results / "untrained/image_input/seed0/probe.json")["blocks"]["0"]["linear"]["value"]
    assert accuracy(run, features).endswith(f"; its random weights {100 * found:.1f} %")
    assert accuracy(run, Features(time=40, offset=-1)) == "not measured"


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study and results at smoke scale, to type commands in; `ldae` is a folder here too."""
    (tmp_path / "ldae").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results/smoke").symlink_to(finished)
    for name in ("config.yaml", "scales"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ldae(*arguments: str) -> None:
    """Runs a command in this process."""
    parsed = cli.parser().parse_args(arguments)
    parsed.action(parsed)


def test_a_row_is_exported_by_its_name_as_the_study_probes_it(study: Path) -> None:
    ldae("export", "ldae", "--scale", "smoke", "--out", "a")
    card = Path("a/README.md").read_text()
    assert "| label | + predict original image (l-DAE) |" in card
    assert "| made from | DiT baseline; + remove class-conditioning; + remove VQGAN" in card
    ldae("export", "time_clean40", "--scale", "smoke", "--out", "b")
    assert "t = 40" in Path("b/README.md").read_text()
    ldae("export", "results/smoke/pretrain/ldae/seed0", "--out", "c", "--time", "40", "--offset", "-1")
    state = {name: load_file(f"{name}/model.safetensors") for name in ("a", "b", "c")}
    assert torch.equal(state["b"]["blocks.0.norm1.bias"], state["c"]["blocks.0.norm1.bias"])
    assert not torch.equal(state["a"]["blocks.0.norm1.bias"], state["b"]["blocks.0.norm1.bias"])
    assert len(state["b"]) == len(state["c"]) + 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ldea"], "'ldea' is neither a folder nor a row of the study .did you mean 'ldae'"),
        (["time_noisy40"], "is probed with noise"),
        (["ldae", "--seed", "7"], "'ldae', seed 7: is not trained yet at scale smoke"),
        (["ldae", "--seed", "7"], "pretrain/ldae/seed7/run.json --config scale=smoke` does it"),
        (["results/smoke/pretrain/mae/seed0", "--offset", "1"], r"offset: \+1 is not a block"),
        (["results/smoke/pretrain"], "holds no finished run"),
        (["results/smoke/pretrain/lade"], "holds no finished run"),
        (["results/smoke/pretrain/ldae", "--seed", "7"], "no finished run of seed 7; it has 0"),
        (["./results/smoke"], "has several trained rows; name one of ldae, mae, moco_v3"),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments: list[str], words: str, study: Path) -> None:
    named = [] if "/" in arguments[0] else ["--scale", "smoke"]
    with pytest.raises((StudyError, ValueError, OSError), match=words) as mistake:
        ldae("export", *arguments, *named, "--out", "out")
    assert "\n" not in str(mistake.value)
    assert not Path("out").exists()


def test_a_row_s_folder_means_its_run(study: Path) -> None:
    ldae("export", "results/smoke/pretrain/ldae", "--out", "a")
    assert "`ldae`, seed 0" in Path("a/README.md").read_text()


def test_a_scale_beside_a_folder_is_refused(study: Path) -> None:
    with pytest.raises(ValueError, match="--scale: goes with the name of a row"):
        ldae("export", "results/smoke/pretrain/ldae/seed0", "--scale", "smoke", "--out", "out")
