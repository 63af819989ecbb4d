"""Fine-tuning: augmentation against timm's, parameter groups, drop paths, and the stage on a few pictures."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rows import denoiser
from torch import Tensor, nn

from ldae.data.augment import HIGHEST, mixed, rand_augment
from ldae.data.prepared import to_float, to_uint8
from ldae.parts.folding import fold
from ldae.runtime.files import read_json
from ldae.runtime.randomness import Randomness
from ldae.stages.finetune import DropPath, FinetuningLoss, finetune, finetuning_task, vision_transformer
from ldae.stages.pretrain import pretrain
from ldae.study.base import Size
from ldae.study.methods import MAETraining
from ldae.study.recipes import Finetuning, Training
from ldae.study.spec import Tokenizer
from ldae.study.stage_specs import BaselineStage, FinetuneStage, PretrainStage
from ldae.training.loop import TrainingRun

SIZE = Size(width=16, heads=2, encoder_blocks=2, decoder_blocks=1)
TRAINING = Training(steps=4, batch=16, rate=0.02, warmup=0.1, log_every=2)
RECIPE = Finetuning(steps=8, batch=16, rate=0.02, warmup=0.1, log_every=2)
STAGE = FinetuneStage(layer_decay=0.75, finetuning=RECIPE)
PLAIN: dict[str, Any] = {"steps": 1, "batch": 2, "rate": 1.0, "warmup": 0.0}


def randomness(part: int = 0, parts: int = 1) -> Randomness:
    return Randomness(torch.device("cpu"), 7, part=part, parts=parts)


def picture(size: int = 40) -> np.ndarray:
    """A smooth picture (S, S, 3), uint8, that has all values but the extreme ones, with edges in it."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), np.sin(4 * x * y + 1)]
    steps = 30 * ((x > 0.4) & (y > 0.6)) + 24 * (np.indices(x.shape).sum(0) // 2 % 2)
    return np.stack([125 + 80 * wave + steps for wave in waves], axis=2).clip(10, 240).astype(np.uint8)


def test_images_are_augmented_as_by_timm() -> None:
    from timm.data import create_transform
    from timm.data.auto_augment import RandAugment

    recipe = create_transform(40, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic")
    chain = next(step for step in recipe.transforms if isinstance(step, RandAugment))
    for operation in chain.ops:
        operation.magnitude_max = HIGHEST  # without it, timm and Pillow fail at a magnitude of 10
    pixels = picture()
    seeds = randomness().integers(2**32, 300).tolist()
    images = to_float(torch.from_numpy(pixels).permute(2, 0, 1)[None]).expand(300, -1, -1, -1)
    augmented = to_uint8(rand_augment(images, randomness(), 9.0)).permute(0, 2, 3, 1).numpy()
    changed = 0
    for seed, image in zip(seeds, augmented, strict=True):
        random.seed(seed)
        np.random.seed(seed)
        expected = np.asarray(chain(Image.fromarray(pixels)))
        np.testing.assert_array_equal(image, expected)
        changed += not np.array_equal(image, pixels)
    assert 0.65 < changed / 300 < 0.85  # a quarter gets neither of its two operations


def test_augmenting_leaves_the_global_generators_alone() -> None:
    images, labels = torch.rand(4, 3, 16, 16) * 2 - 1, torch.arange(4) % 3

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    def draw() -> list[float]:
        return [random.random(), np.random.random(), torch.rand(()).item()]

    seed()
    expected = draw()
    seed()
    mixed(rand_augment(images, randomness(), 9.0), labels, randomness(), classes=3, recipe=RECIPE)
    assert draw() == expected


def test_a_larger_magnitude_changes_images_more() -> None:
    images = to_float(torch.from_numpy(picture(16)).permute(2, 0, 1)[None]).expand(400, -1, -1, -1)
    changes = [
        (rand_augment(images, randomness(), magnitude) - images).abs().mean().item() for magnitude in (0.5, 4, 10)
    ]
    assert changes[0] < changes[1] < changes[2]


def test_what_an_image_becomes_does_not_depend_on_the_number_of_ranks() -> None:
    images, labels = torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8) % 3

    def augment(part: int, parts: int) -> tuple[Tensor, Tensor]:
        source, own = randomness(part, parts), slice(part * 8 // parts, (part + 1) * 8 // parts)
        return mixed(rand_augment(images[own], source, 9.0), labels[own], source, classes=3, recipe=RECIPE)

    whole, parts = augment(0, 1), (augment(0, 2), augment(1, 2))
    for kind in (0, 1):
        assert torch.equal(torch.cat([part[kind] for part in parts]), whole[kind])


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_labels_are_mixed_in_proportion_to_the_images(method: str) -> None:
    labels = torch.arange(201) % 2
    images = labels.float()[:, None, None, None].expand(-1, 3, 16, 16).contiguous()  # class 1 is white
    recipe = Finetuning(**PLAIN, **{"mixup": 0.0, "cutmix": 0.0, method: 1.0})
    blended, targets = mixed(images, labels, randomness(), classes=2, recipe=recipe)
    torch.testing.assert_close(targets.sum(1), torch.ones(201))
    torch.testing.assert_close(blended.mean((1, 2, 3)), targets[:, 1], atol=1e-5, rtol=0)
    assert ((blended == 0) | (blended == 1)).all() == (method == "cutmix")
    assert len(targets[:-1:2, 1].unique()) > 20  # each pair has a share of its own
    torch.testing.assert_close(targets[0:-1:2].flip(1), targets[1::2])  # and is mixed within itself
    assert torch.equal(targets[-1], torch.tensor([1.0, 0.0]))  # an image without a partner stays as it is


def test_mixup_and_cutmix_are_equally_frequent() -> None:
    labels = torch.arange(2000) % 2
    images = labels.float()[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    mixture, _ = mixed(images, labels, randomness(), classes=2, recipe=Finetuning(**PLAIN))
    blended = ((mixture > 0) & (mixture < 1)).flatten(1).any(1)
    assert 0.45 < blended.float().mean() < 0.55


def test_the_loss_is_timms_with_smoothed_labels() -> None:
    from timm.loss import LabelSmoothingCrossEntropy

    recipe = RECIPE.model_copy(update={"mixup": 0.0, "cutmix": 0.0, "magnitude": 0.0, "drop_path": 0.0})
    tuned, labels, logits = network(), torch.arange(8) % 3, torch.randn(3)
    tuned.get_parameter("head.bias").data.copy_(logits)
    tuned.get_parameter("head.weight").data.zero_()  # so that all images have these logits
    task = finetuning_task(tuned, STAGE.model_copy(update={"finetuning": recipe}), classes=3)
    measured = task.update(torch.zeros(8, 3, 32, 32).byte(), labels, randomness(), step=0, total=8)
    expected = LabelSmoothingCrossEntropy(recipe.smoothing)(logits.expand(8, 3), labels)
    assert float(measured["loss"]) == pytest.approx(float(expected), rel=1e-5)


def network(row: str = "ldae", classes: int = 3) -> nn.Module:
    """A classifier that starts from a row with random weights and open gates."""
    model = denoiser(row)[1]
    model.network.open_gates()
    return vision_transformer(fold(model, time=10, offset=0), classes=classes, seed=0)


def test_groups_have_the_rates_and_decays_of_maes_recipe() -> None:
    tuned = network()
    depth = len(tuned.get_submodule("blocks"))  # type: ignore[arg-type]
    found = {
        id(parameter): (group["lr_scale"], group["weight_decay"])
        for group in finetuning_task(tuned, STAGE, classes=3).optimizers[0].param_groups
        for parameter in group["params"]
    }
    assert len(found) == len(list(tuned.parameters()))
    by_name = {name: found[id(parameter)] for name, parameter in tuned.named_parameters()}
    assert by_name["head.weight"] == (1.0, 0.05)
    assert by_name["fc_norm.weight"] == (1.0, 0.0)
    assert by_name[f"blocks.{depth - 1}.mlp.fc1.weight"] == (0.75, 0.05)
    assert by_name["blocks.0.attn.qkv.bias"] == (pytest.approx(0.75**depth), 0.0)
    assert by_name["patch_embed.proj.weight"] == (pytest.approx(0.75 ** (depth + 1)), 0.05)
    assert by_name["pos_embed"] == (pytest.approx(0.75 ** (depth + 1)), 0.0)


def test_a_classifier_starts_from_what_is_probed() -> None:
    model = denoiser("ldae")[1]
    model.network.open_gates()
    folded = fold(model, time=10, offset=0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    probed = model.features(model.encode(images), time=10)[0].mean(1)
    tuned = vision_transformer(folded, classes=3, seed=0)
    with torch.no_grad():
        torch.testing.assert_close(tuned.forward_features(images).mean(1), probed, rtol=1e-5, atol=1e-5)  # type: ignore[operator]
        normed = torch.nn.functional.layer_norm(probed, probed.shape[-1:], eps=1e-6)
        head = tuned.get_parameter("head.weight")
        torch.testing.assert_close(tuned(images), normed @ head.T, rtol=1e-4, atol=1e-8)
    assert 1e-5 < head.std() < 4e-5


def test_drop_paths_leave_whole_branches_out_and_keep_the_mean() -> None:
    path, branch = DropPath(0.25), torch.randn(4, 5, 6)
    path.uniform = torch.tensor([0.1, 0.24, 0.25, 0.9])
    torch.testing.assert_close(path(branch), branch * torch.tensor([0, 0, 4 / 3, 4 / 3])[:, None, None])
    assert torch.equal(path.eval()(branch), branch)
    tuned = FinetuningLoss(network("size_l"), RECIPE.model_copy(update={"drop_path": 0.2}))
    depth = len(tuned.paths) // 2
    assert [path.rate for path in tuned.paths] == pytest.approx(np.repeat(np.linspace(0, 0.2, depth), 2))


def test_each_drop_path_has_its_own_numbers_and_all_are_used() -> None:
    recipe = RECIPE.model_copy(update={"drop_path": 0.5, "smoothing": 0.0})
    tuned, images, targets = (
        FinetuningLoss(network(), recipe),
        torch.rand(6, 3, 32, 32),
        torch.eye(3)[torch.arange(6) % 3],
    )
    for parameter in tuned.parameters():  # else the classifier starts at zero
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    losses = tuned(images, targets, torch.ones(6, len(tuned.paths)))
    for path in range(2, len(tuned.paths)):  # the first block's have the rate 0
        uniform = torch.ones(6, len(tuned.paths))
        uniform[3, path] = 0.0
        differs = (tuned(images, targets, uniform) - losses).abs() > 1e-4
        assert differs.tolist() == [number == 3 for number in range(6)]


def test_micro_batches_equal_the_whole_batch() -> None:
    images, labels = torch.randint(256, (8, 3, 32, 32)).byte(), torch.arange(8) % 3
    stage = STAGE.model_copy(update={"finetuning": RECIPE.model_copy(update={"batch": 8})})
    start = network()
    found = []
    for micro_batch in (0, 3):
        task = finetuning_task(copy.deepcopy(start), stage, classes=3, micro_batch=micro_batch)
        run = TrainingRun(task, title="x", seed=0, total=8, batch=8, log_every=2, identity="")
        losses = [run.update(images, labels)["loss"] for _ in range(3)]
        found.append([*losses, *task.module.parameters()])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_crops_are_cut_from_images_as_they_are_kept() -> None:
    tuned, seen = network(), list[tuple[int, ...]]()
    tuned.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    task = finetuning_task(tuned, STAGE, classes=3)
    larger = torch.randint(256, (8, 3, 48, 48)).byte()
    task.update(larger, torch.arange(8) % 3, randomness(), step=0, total=8)
    assert seen == [(8, 3, 32, 32)]


@pytest.fixture(scope="module")
def trained_row(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("row")
    pretrain(
        PretrainStage(size=SIZE, training=TRAINING, tokenizer=Tokenizer(dim=8)),
        row="tiny",
        seed=3,
        revision=1,
        dataset=prepared / "dataset",
        tokenizer=prepared / "pca",
        resume=out / "resume",
        out=out / "run",
    )
    return out / "run"


def tune(prepared: Path, model: Path, folder: Path, stage: FinetuneStage = STAGE, **options: Any) -> list[bytes]:
    """The outputs of fine-tuning in a folder."""
    folders = {"dataset": prepared / "dataset", "tokenizer": prepared / "pca", "model": model}
    folders |= {"resume": folder / "resume", "out": folder / "out"}
    finetune(stage, row="tiny", revision=1, **(folders | {"checkpoint_seconds": 0} | options))
    about = read_json(folder / "out/finetune.json")
    del about["provenance"]
    return [str(about).encode(), *((folder / "out" / name).read_bytes() for name in ("history.csv", "correct.npz"))]


def test_fine_tuning_learns_the_labels(prepared: Path, trained_row: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"steps": 60, "rate": 0.1, "ema": 0.9, "mixup": 0.0, "magnitude": 0.0})
    tune(prepared, trained_row, tmp_path, STAGE.model_copy(update={"finetuning": recipe}))
    about = read_json(tmp_path / "out/finetune.json")
    assert about["top1"] > 0.6  # chance is a third
    assert about["top1_low"] <= about["top1"] <= about["top1_high"]
    assert (about["row"], about["run"], about["seed"]) == ("tiny", "tiny", 3)
    assert list(about["lineage"]) == ["dataset", "tokenizer", "pretrain", "finetune"]
    with np.load(tmp_path / "out/correct.npz") as arrays:
        assert arrays["finetuned"].mean() == pytest.approx(about["top1"])


def test_fine_tuning_stopped_anywhere_ends_in_the_same_numbers(
    prepared: Path, trained_row: Path, tmp_path: Path
) -> None:
    whole = tune(prepared, trained_row, tmp_path / "whole")
    update = TrainingRun.update
    for steps in (1, 5):
        left = iter(range(steps))

        def stopping(self: TrainingRun, *arguments: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return update(self, *arguments)

        folder = tmp_path / str(steps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainingRun, "update", stopping)
            with pytest.raises(KeyboardInterrupt):
                tune(prepared, trained_row, folder)
        assert (folder / "resume/checkpoint.pt").exists()
        assert tune(prepared, trained_row, folder) == whole


def test_a_baseline_is_fine_tuned_without_a_tokenizer(prepared: Path, tmp_path: Path) -> None:
    recipe = MAETraining(**TRAINING.model_dump(), decoder_width=16, decoder_heads=2, decoder_blocks=1)
    folders = {"dataset": prepared / "dataset", "resume": tmp_path / "r", "out": tmp_path / "mae"}
    pretrain(BaselineStage(size=SIZE, mae=recipe), row="mae", seed=0, revision=1, **folders)
    tune(prepared, tmp_path / "mae", tmp_path, tokenizer=None)
    assert read_json(tmp_path / "out/finetune.json")["run"] == "mae"


def test_a_denoiser_wants_its_tokenizer(prepared: Path, trained_row: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name its folder with --tokenizer"):
        tune(prepared, trained_row, tmp_path, tokenizer=None)


def test_a_block_that_there_is_not_is_named(prepared: Path, trained_row: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run: offset: \+7 is not a block"):
        tune(prepared, trained_row, tmp_path, STAGE.model_copy(update={"offset": 7}))
