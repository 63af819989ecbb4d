"""The stages beside pretraining and probing, each on a few small pictures, from what the one before has left."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from manifests import images_of
from PIL import Image
from safetensors.numpy import load_file

from ldae.data.prepared import Latents, Split
from ldae.data.sources.pixels import draw
from ldae.measures.extraction import Crop, windows
from ldae.parts.tokenizers.conv import ConvTokenizer
from ldae.runtime.files import checksums, read_json, sha256, write_json
from ldae.runtime.randomness import Randomness
from ldae.stages.denoise import GAP, LINE, denoise, denoise_pictures
from ldae.stages.judge import judge, reference
from ldae.stages.pretrain import pretrain
from ldae.stages.probe import probe, probe_untrained
from ldae.stages.sample import sample
from ldae.stages.train_classifier import train_classifier
from ldae.stages.train_tokenizer import train_tokenizer
from ldae.study.base import ExternalFile, Size
from ldae.study.methods import MAETraining, MoCoTraining
from ldae.study.recipes import Probing, Training
from ldae.study.scale import Classifier, Convolutional, Judging, Sampling
from ldae.study.spec import Features, Network, Noise, Recipe, Tokenizer
from ldae.study.stage_specs import (
    BaselineStage,
    ClassifierStage,
    ConvolutionalStage,
    DenoiseStage,
    JudgeStage,
    PretrainStage,
    ProbeStage,
    SampleStage,
    UntrainedFeatures,
    UntrainedStage,
)
from ldae.training.loop import TrainingRun

SIZE = Size(width=16, heads=2, encoder_blocks=1, decoder_blocks=1)
TRAINING = Training(steps=6, batch=16, rate=0.02, warmup=0.1, log_every=2)
CONV = Convolutional(width=8, blocks=1, steps=6, batch=8, rate=1e-3, discriminator_width=4, log_every=2)
CLASSIFIER = Classifier(width=4, steps=4, batch=8, rate=1e-3, log_every=2)


class Workshop:
    """A folder in which stages run, each once."""

    def __init__(self, prepared: Path, folder: Path) -> None:
        self.dataset, self.pca, self.folder = prepared / "dataset", prepared / "pca", folder

    def classifier(self, architecture: Any) -> Path:
        out = self.folder / architecture
        if not out.exists():
            stage = ClassifierStage(architecture=architecture, classifier=CLASSIFIER)
            train_classifier(
                stage, seed=0, revision=1, dataset=self.dataset, resume=self.folder / f"r-{architecture}", out=out
            )
        return out

    def tokenizer(self, name: str, recipe: Convolutional = CONV, *, recompute: bool = False, **losses: bool) -> Path:
        out = self.folder / name
        if not out.exists():
            stage = ConvolutionalStage(dim=16, convolutional=recipe, **losses)
            vgg = self.classifier("vgg") if stage.needs_vgg else None
            train_tokenizer(
                stage,
                seed=0,
                revision=1,
                dataset=self.dataset,
                resume=self.folder / f"r-{name}",
                out=out,
                vgg=vgg,
                recompute=recompute,
                checkpoint_seconds=0,
            )
        return out

    def row(self, name: str, fit: Path, **parts: Any) -> Path:
        out = self.folder / name
        if not out.exists():
            pretrain(
                PretrainStage(size=SIZE, training=TRAINING, **parts),
                row=name,
                seed=0,
                revision=1,
                dataset=self.dataset,
                tokenizer=fit,
                resume=self.folder / f"r-{name}",
                out=out,
            )
        return out


@pytest.fixture(scope="module")
def workshop(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(prepared, tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def labelled(workshop: Workshop) -> tuple[Path, Path]:
    """A row like the study's first: convolutional tokens, class labels; and its tokenizer."""
    tokenizer = workshop.tokenizer("vqgan", perceptual=True, adversarial=True)
    parts = {
        "tokenizer": Tokenizer(kind="conv", dim=16, perceptual=True, adversarial=True),
        "noise": Noise(schedule="ddpm"),
        "network": Network(labels=True),
    }
    return workshop.row("labelled", tokenizer, **parts), tokenizer


@pytest.mark.parametrize("architecture", ["vgg", "resnet"])
def test_a_classifier_tells_its_accuracy(architecture: str, workshop: Workshop) -> None:
    about = read_json(workshop.classifier(architecture) / "classifier.json")
    assert about["architecture"] == architecture
    assert 0 <= about["accuracy"] <= 1
    assert list(about["lineage"]) == ["dataset", architecture]


def test_a_tokenizer_with_all_losses_notes_each_of_them(workshop: Workshop) -> None:
    folder = workshop.tokenizer("vqgan", perceptual=True, adversarial=True)
    header, *lines = (folder / "history.csv").read_text().splitlines()
    assert header.split(",")[2:] == ["loss", "reconstruction", "perceptual", "kl", "discriminator", "rate"]
    assert [line.split(",")[0] for line in lines] == ["2", "4", "6"]
    discriminator = [float(line.split(",")[6]) for line in lines]
    assert discriminator[-1] > 0
    about = read_json(folder / "tokenizer.json")
    assert about["perceptual"] == "builtin"
    assert about["dims"] == 16
    assert list(about["psnr"]) == ["16"]
    assert "vgg" in about["lineage"]
    assert about["posterior_noise"] > 0


def test_cached_latents_are_those_of_both_flips_and_standardised_by_the_data(workshop: Workshop) -> None:
    folder = workshop.tokenizer("plain")
    cached = np.load(folder / "latents.npy")
    assert cached.shape == (48, 2, 4, 16)
    assert cached.dtype == np.float16
    fitted = {name: torch.from_numpy(array) for name, array in load_file(folder / "tokenizer.safetensors").items()}
    tokenizer = ConvTokenizer(fitted, dim=16, scale="dimension")
    images = torch.from_numpy(images_of(workshop.dataset, "train")).float() / 127.5 - 1
    with torch.no_grad():
        both = torch.stack([tokenizer.raw(images), tokenizer.raw(images.flip(-1))], dim=1)
    torch.testing.assert_close(torch.from_numpy(cached).float(), both, rtol=2e-3, atol=2e-3)
    standard = tokenizer.standardise(both).flatten(0, 2)
    assert standard.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(standard.var(0), torch.ones(16), rtol=1e-3, atol=1e-3)
    assert read_json(folder / "tokenizer.json")["perceptual"] is None


def test_a_tokenizer_stopped_anywhere_ends_in_the_same_bytes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workshop.tokenizer("whole", adversarial=True)
    update, left = TrainingRun.update, iter(range(4))

    def stopping(self: TrainingRun, *arguments: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return update(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            workshop.tokenizer("parts", adversarial=True)
    parts = workshop.tokenizer("parts", adversarial=True)
    for name in ("tokenizer.safetensors", "latents.npy", "history.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_recomputed_activations_leave_a_tokenizer_of_the_same_bytes(workshop: Workshop) -> None:
    whole = workshop.tokenizer("whole", adversarial=True)
    recomputed = workshop.tokenizer("recomputed", adversarial=True, recompute=True)
    assert (whole / "tokenizer.safetensors").read_bytes() == (recomputed / "tokenizer.safetensors").read_bytes()


def test_weights_that_are_absent_or_others_are_named(workshop: Workshop, tmp_path: Path) -> None:
    absent = ExternalFile(path=str(tmp_path / "vgg16.safetensors"), sha256="0" * 64)
    recipe = CONV.model_copy(update={"perceptual": absent})
    with pytest.raises(OSError, match=f"vgg16.safetensors.*{'0' * 64}"):
        workshop.tokenizer("absent", recipe, perceptual=True)
    published = CONV.model_copy(update={"published": absent})
    with pytest.raises(OSError, match=f"vgg16.safetensors.*{'0' * 64}"):
        workshop.tokenizer("absent", published, perceptual=True, adversarial=True)
    assert not (workshop.folder / "absent").exists()
    Path(absent.path).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"vgg16.safetensors: has sha256 [0-9a-f]{64}, expected 0{64}"):
        workshop.tokenizer("absent", recipe, perceptual=True)


def test_a_row_on_convolutional_tokens_trains_on_the_cache_and_is_probed(
    workshop: Workshop, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    model, tokenizer = labelled
    probing = Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,))
    stage = ProbeStage(probing=probing)
    probe(
        stage,
        row="labelled",
        revision=1,
        dataset=workshop.dataset,
        tokenizer=tokenizer,
        model=model,
        out=tmp_path / "probe",
    )
    assert set(read_json(tmp_path / "probe/probe.json")["blocks"]) == {"0"}


def test_a_probe_takes_the_centres_of_the_training_images_from_the_cache(
    workshop: Workshop, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    model, tokenizer = labelled
    train, centre = Split.open(workshop.dataset, "train", seed=0), Crop(None, 0, torch.device("cpu"))
    fitted = {name: torch.from_numpy(array) for name, array in load_file(tokenizer / "tokenizer.safetensors").items()}
    cached, images = (
        windows(source, np.arange(3, 11), centre, Randomness(centre.device, 0), position=0)
        for source in (Latents.open(tokenizer, train.labels), train)
    )
    with torch.no_grad():
        encoded = ConvTokenizer(fitted, dim=16, scale="global").raw(images)
    torch.testing.assert_close(cached, encoded, rtol=2e-3, atol=2e-3)
    damaged = tmp_path / "damaged"
    shutil.copytree(tokenizer, damaged)
    with (damaged / "latents.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    stage = ProbeStage(probing=Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,)))
    folders = {"dataset": workshop.dataset, "tokenizer": damaged, "model": model}
    with pytest.raises(ValueError, match=r"latents\.npy: row 47 is damaged"):
        probe(stage, row="labelled", revision=1, out=tmp_path / "probe", **folders)


def sampled(workshop: Workshop, labelled: tuple[Path, Path], out: Path, **sampling: Any) -> np.ndarray:
    model, tokenizer = labelled
    stage = SampleStage(sampling=Sampling(**{"num": 100, "steps": 3, "batch": 50} | sampling))
    sample(stage, row="labelled", revision=1, dataset=workshop.dataset, tokenizer=tokenizer, model=model, out=out)
    array: np.ndarray = np.load(out / "samples.npy")
    return array


def test_samples_are_images_and_the_same_every_time(
    workshop: Workshop, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    first = sampled(workshop, labelled, tmp_path / "a")
    assert first.shape == (100, 3, 32, 32)
    assert first.dtype == np.uint8
    assert first.std() > 1
    np.testing.assert_array_equal(np.load(tmp_path / "a/examples.npy"), first[:8])
    np.testing.assert_array_equal(first, sampled(workshop, labelled, tmp_path / "b"))
    assert not np.array_equal(first, sampled(workshop, labelled, tmp_path / "c", method="ddim"))


def test_a_row_without_a_diffusion_process_refuses_to_sample(workshop: Workshop, tmp_path: Path) -> None:
    for schedule in ("unscaled", "single"):
        model = workshop.row(schedule, workshop.pca, noise=Noise(schedule=schedule))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{schedule}.*no diffusion process"):
            sampled(workshop, (model, workshop.pca), tmp_path)
    assert not list(tmp_path.iterdir())


def test_samples_are_judged_with_an_error_and_a_name(
    workshop: Workshop, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    sampled(workshop, labelled, tmp_path / "samples")
    stage, resnet = JudgeStage(judging=Judging()), workshop.classifier("resnet")
    reference(stage, revision=1, dataset=workshop.dataset, out=tmp_path / "reference", judge=resnet)
    folders = {"samples": tmp_path / "samples", "reference": tmp_path / "reference"}
    judge(stage, revision=1, **folders, out=tmp_path / "judge", judge=resnet)
    found = read_json(tmp_path / "judge/distance.json")
    assert found["distance"] == "Fréchet distance (judge)"
    assert found["num"] == 100
    assert found["value"] > 0 and found["error"] > 0
    assert found["judge_accuracy"] == read_json(resnet / "classifier.json")["accuracy"]
    assert set(found["lineage"]) == {"dataset", "vgg", "tokenizer", "pretrain", "sample", "resnet", "judge"}


def test_true_images_are_nearer_to_themselves_than_noise(workshop: Workshop, tmp_path: Path) -> None:
    stage, resnet = JudgeStage(judging=Judging()), workshop.classifier("resnet")
    reference(stage, revision=1, dataset=workshop.dataset, out=tmp_path / "reference", judge=resnet)
    train = images_of(workshop.dataset, "train")
    noise = np.random.default_rng(0).integers(256, size=train.shape).astype(np.uint8)
    distances = []
    for name, images in (("true", train), ("noise", noise)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "samples.npy", images)
        lineage = {"sample": {"revision": 1, "spec": {}}}
        record = {"row": "r", "seed": 0, "lineage": lineage, "sha256": checksums(tmp_path / name / "samples.npy")}
        write_json(tmp_path / name / "samples.json", record)
        judge(
            stage,
            revision=1,
            samples=tmp_path / name,
            reference=tmp_path / "reference",
            out=tmp_path / name,
            judge=resnet,
        )
        distances.append(read_json(tmp_path / name / "distance.json")["value"])
    assert distances[0] < 1e-2 * distances[1]


def test_the_perceptual_network_may_not_judge(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a vgg"):
        reference(
            JudgeStage(judging=Judging()),
            revision=1,
            dataset=workshop.dataset,
            out=tmp_path,
            judge=workshop.classifier("vgg"),
        )


def test_published_statistics_are_taken_as_they_are(workshop: Workshop, tmp_path: Path) -> None:
    path = tmp_path / "adm.npz"
    np.savez(path, mu=np.arange(5.0), sigma=np.eye(5))
    weights = ExternalFile(path="unused", sha256="0" * 64)
    judging = Judging(features=weights, reference=ExternalFile(path=str(path), sha256=sha256(path)))
    reference(JudgeStage(judging=judging), revision=1, dataset=workshop.dataset, out=tmp_path / "reference")
    with np.load(tmp_path / "reference/reference.npz") as arrays:
        np.testing.assert_array_equal(arrays["mean"], np.arange(5.0))
        np.testing.assert_array_equal(arrays["covariance"], np.eye(5))
    np.savez(path, mean=np.arange(5.0))
    judging = Judging(features=weights, reference=ExternalFile(path=str(path), sha256=sha256(path)))
    with pytest.raises(ValueError, match=r"adm.npz: holds mean; expected mu and sigma"):
        reference(JudgeStage(judging=judging), revision=1, dataset=workshop.dataset, out=tmp_path / "reference")


@pytest.mark.parametrize("method", ["mae", "moco_v3"])
def test_a_baseline_trains_and_is_probed_like_a_row(method: str, workshop: Workshop, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "mae": MAETraining(**TRAINING.model_dump(), decoder_width=16, decoder_heads=2, decoder_blocks=1),
        "moco_v3": MoCoTraining(**TRAINING.model_dump(), hidden=16, out=8),
    }
    stage = BaselineStage(size=SIZE, **{method: recipe[method]})
    folders = {"dataset": workshop.dataset, "resume": tmp_path / "resume", "out": tmp_path / "run"}
    pretrain(stage, row=method, seed=0, revision=1, **folders)
    run = read_json(tmp_path / "run/run.json")
    assert run["method"] == method
    assert run["training_flops"] > 0
    assert len((tmp_path / "run/history.csv").read_text().splitlines()) == 4
    again = folders | {"resume": tmp_path / "resume2", "out": tmp_path / "recomputed"}
    pretrain(stage, row=method, seed=0, revision=1, recompute=True, **again)
    assert read_json(tmp_path / "recomputed/run.json")["sha256"] == run["sha256"]
    probing = Probing(mode="cached", epochs=2, warmup=1, batch=24, rates=(1.0,))
    folders = {"dataset": workshop.dataset, "model": tmp_path / "run", "out": tmp_path / "probe"}
    probe(ProbeStage(probing=probing), row=method, revision=1, **folders)
    found = np.load(tmp_path / "probe/correct.npz")
    assert set(found) == {"0/linear", "0/knn"}
    with pytest.raises(ValueError, match="only the encoder's last block"):
        probe(ProbeStage(probing=probing, offsets=(0, 1)), row=method, revision=1, **folders)
    untrained = UntrainedStage(features=UntrainedFeatures.of(stage, Features()), probing=probing)
    folders = {"dataset": workshop.dataset, "out": tmp_path / "untrained"}
    probe_untrained(untrained, row=method, seed=0, revision=1, **folders)
    assert list(read_json(tmp_path / "untrained/probe.json")["lineage"]) == ["dataset", "probe"]


def test_denoising_validation_images_brings_them_nearer_to_the_clean_ones(
    workshop: Workshop, prepared: Path, tmp_path: Path
) -> None:
    long = Training(steps=150, batch=16, rate=0.1, warmup=0.1)
    pretrain(
        PretrainStage(
            size=SIZE, training=long, tokenizer=Tokenizer(dim=8), objective={"predict": "clean"}, recipe=Recipe()
        ),
        row="denoiser",
        seed=0,
        revision=1,
        dataset=workshop.dataset,
        tokenizer=workshop.pca,
        resume=tmp_path / "resume",
        out=tmp_path / "results/pretrain/denoiser/seed0",
    )
    model = tmp_path / "results/pretrain/denoiser/seed0"
    folders = {"dataset": workshop.dataset, "tokenizer": workshop.pca, "model": model, "out": tmp_path / "pictures"}
    denoise(DenoiseStage(num=24), row="denoiser", revision=1, **folders)
    with np.load(tmp_path / "pictures/pictures.npz") as arrays:
        clean, noisy, denoised = (arrays[name].astype(float) for name in ("clean", "noisy", "denoised"))
    assert np.square(denoised - clean).mean() < 0.8 * np.square(noisy - clean).mean()


def test_a_users_own_pictures_are_denoised(
    workshop: Workshop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = workshop.row("pictures", workshop.pca, tokenizer=Tokenizer(dim=8))
    results = tmp_path / "results"
    (results / "pretrain/row").mkdir(parents=True)
    (results / "tokenizers/pca").mkdir(parents=True)
    for link, target in (
        (results / "dataset", workshop.dataset),
        (results / "tokenizers/pca/seed0", workshop.pca),
        (results / "pretrain/row/seed0", model),
    ):
        link.symlink_to(target)
    Image.fromarray(np.random.default_rng(0).integers(256, size=(90, 70, 3)).astype(np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_text("no image")
    options: dict[str, Any] = {"model": Path(results / "pretrain/row/seed0"), "sigma": 0.5, "seed": 0}
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "a.jpg", tmp_path / "other/a.jpg")
    denoise_pictures([tmp_path / "a.jpg", tmp_path / "other/a.jpg"], **options, out=tmp_path / "out")
    clean = draw((tmp_path / "a.jpg").read_bytes(), 32).pixels.transpose(1, 2, 0)
    for name in ("a.png", "a-2.png"):
        with Image.open(tmp_path / "out" / name) as sheet:
            pixels = np.asarray(sheet)
            assert min(sheet.size) >= 256
        enlarged = clean.repeat(8, 0).repeat(8, 1)  # nobody can see 32 pixels
        top, left = LINE, GAP
        assert np.array_equal(pixels[top : top + 256, left : left + 256], enlarged)
        for words in (pixels[:LINE], pixels[-LINE:]):  # the labels and what the row is
            assert (words < 128).any()
    said = capsys.readouterr().err
    assert "pictures, seed 0, has seen 96" in said and "images of 32 x 32 pixels" in said
    with pytest.raises(ValueError, match=r"b.jpg: is not an image"):
        denoise_pictures([tmp_path / "b.jpg"], **options, out=tmp_path / "out")
    shutil.copy(tmp_path / "out/a.png", tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"c\.png: is one of the pictures, and would be replaced"):
        denoise_pictures([tmp_path / "c.png"], **options, out=tmp_path)
    denoise_pictures([tmp_path / "a.jpg"], model=options["model"], sigma=1e9, seed=0, out=tmp_path / "out")
    assert re.search(
        r"sigma 1e\+09: this row's noise schedule has no such level; \S+ is the nearest", capsys.readouterr().err
    )
