"""Fine-tuning: augmentation against timm's, parameter groups, drop paths, and the stage on a few pictures."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rows import denoiser
from torch import Tensor, nn

from ldae.data.mixing import beta, cross_entropy, mixed, smoothed, window
from ldae.data.rand_augment import OPERATIONS, rand_augment
from ldae.parts.folding import fold
from ldae.runtime.files import read_json
from ldae.runtime.randomness import Randomness
from ldae.stages.finetune import DropPath, Tuned, Tuning, finetune, layer_groups, vision_transformer
from ldae.stages.pretrain import pretrain
from ldae.stages.pretrain_baseline import pretrain_baseline
from ldae.study.spec import (
    BaselineStage,
    FinetuneStage,
    Finetuning,
    MAETraining,
    PretrainStage,
    Size,
    Tokenizer,
    Training,
)
from ldae.training.loop import Run

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


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("level", [2.0, 9.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name: str, level: float, sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from timm.data import auto_augment, create_transform

    recipe = create_transform(40, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic")
    chain = next(step for step in recipe.transforms if isinstance(step, auto_augment.RandAugment))
    assert {operation.name for operation in chain.ops} == set(OPERATIONS)
    options = chain.ops[0].kwargs  # the interpolation, and what comes into sight beyond an image's edges
    monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
    to_arguments, pixels = auto_augment.LEVEL_TO_ARG[name], picture()
    arguments = to_arguments(level, {}) if to_arguments else ()
    if name == "SolarizeAdd":
        arguments = (auto_augment._solarize_add_level_to_arg(level, {})[0],)
    expected = np.asarray(auto_augment.NAME_TO_OP[name](Image.fromarray(pixels), *arguments, **options)).astype(float)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    found = OPERATIONS[name](x, torch.tensor([level / 10]), torch.tensor([float(sign)]))[0].permute(1, 2, 0).numpy()
    errors = np.abs(found - expected)
    assert errors.mean() < 1.5  # torch's bicubic kernel is a little sharper than Pillow's
    assert errors.max() < 6
    assert np.abs(expected - pixels).mean() > 0.5, "the picture must show a difference"


def test_each_image_has_two_operations_each_left_out_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.from_numpy(picture(16)).permute(2, 0, 1)[None].float().expand(4000, -1, -1, -1) / 127.5 - 1
    assert rand_augment(images, randomness(), 9.0).abs().max() <= 1 + 1e-5
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda x, level, sign: x + 1)
    operations = ((rand_augment(images, randomness(), 9.0) - images) * 127.5).mean((1, 2, 3)).round().long()
    shares = operations.bincount() / len(images)
    assert shares.tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_what_an_image_becomes_depends_not_on_the_number_of_ranks() -> None:
    images, labels = torch.rand(8, 3, 32, 32) * 2 - 1, torch.arange(8) % 3

    def augment(part: int, parts: int) -> tuple[Tensor, Tensor]:
        source, own = randomness(part, parts), slice(part * 8 // parts, (part + 1) * 8 // parts)
        return mixed(rand_augment(images[own], source, 9.0), labels[own], source, classes=3, recipe=RECIPE)

    whole, parts = augment(0, 1), (augment(0, 2), augment(1, 2))
    for kind in (0, 1):
        torch.testing.assert_close(torch.cat([part[kind] for part in parts]), whole[kind])


def test_labels_are_smoothed_and_mixed_like_timms() -> None:
    from timm.data.mixup import mixup_target

    labels = torch.tensor([2, 0, 1, 1])
    expected = mixup_target(labels, 5, lam=1.0, smoothing=0.1)
    torch.testing.assert_close(smoothed(labels, 5, 0.1), expected)
    recipe = Finetuning(**PLAIN, mixup=0.8, cutmix=0.0)
    images = torch.stack([torch.full((3, 4, 4), value) for value in (0.0, 1.0, 0.0, 1.0)])
    blended, targets = mixed(images, labels, randomness(), classes=5, recipe=recipe)
    for first in (0, 2):
        share = blended[first + 1, 0, 0, 0].item()  # that the second image has kept
        torch.testing.assert_close(blended[first], torch.full((3, 4, 4), 1 - share))
        pair = labels[first : first + 2]
        wanted = mixup_target(pair, 5, lam=share, smoothing=0.1)  # which mixes a batch with its reverse
        torch.testing.assert_close(targets[first : first + 2], wanted)
    assert blended[1, 0, 0, 0] != blended[3, 0, 0, 0]


def test_cutmix_exchanges_a_window_and_weighs_labels_by_its_area() -> None:
    labels = torch.arange(200) % 2
    images = labels.float()[:, None, None, None].expand(-1, 3, 16, 16).contiguous()
    cut, targets = mixed(images, labels, randomness(), classes=2, recipe=Finetuning(**PLAIN, mixup=0.0, smoothing=0.0))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(cut[0::2] + cut[1::2], torch.ones(100, 3, 16, 16))  # nothing is lost
    torch.testing.assert_close(cut[:, 0].mean((1, 2)), targets[:, 1])
    assert 0.6 < targets[labels == 1, 1].mean() < 0.75  # about half of the area, and less of it in the image


def test_both_kinds_of_mixing_are_as_frequent() -> None:
    labels = torch.arange(2000) % 2
    images = labels.float()[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    found, _ = mixed(images, labels, randomness(), classes=2, recipe=Finetuning(**PLAIN))
    blended = ((found > 0) & (found < 1)).flatten(1).any(1)
    assert 0.45 < blended.float().mean() < 0.55


def test_without_mixing_labels_are_smoothed_alone() -> None:
    images, recipe = torch.rand(3, 3, 8, 8), Finetuning(**PLAIN, mixup=0.0, cutmix=0.0)
    same, targets = mixed(images, torch.tensor([0, 1, 2]), randomness(), classes=3, recipe=recipe)
    assert same is images
    torch.testing.assert_close(targets, torch.eye(3) * 0.9 + 0.1 / 3)


def test_an_image_without_a_partner_is_refused() -> None:
    with pytest.raises(ValueError, match=r"finetuning.batch: 3 images a process"):
        mixed(torch.zeros(3, 3, 8, 8), torch.zeros(3).long(), randomness(), classes=2, recipe=RECIPE)


def test_shares_are_of_the_beta_distribution() -> None:
    uniform = torch.linspace(0.0005, 0.9995, 1000)
    for parameter in (0.8, 1.0):
        drawn = beta(uniform, parameter)
        assert drawn.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert drawn.var().item() == pytest.approx(1 / (4 * (2 * parameter + 1)), rel=0.01)
    assert torch.equal(beta(uniform, 0.0), torch.ones(1000))


def test_a_window_is_a_square_of_the_area_cut_off_at_the_edges() -> None:
    found = window(torch.tensor([0.75, 0.75, 0.0]), torch.tensor([0.5, 0.0, 0.5]), torch.tensor([0.5, 0.99, 0.5]), 32)
    assert found.sum((1, 2)).tolist() == [256, 8 * 9, 1024]
    assert found[0, 8:24, 8:24].all()
    assert found[1, :8, 23:].all()


def test_the_loss_is_the_cross_entropy_with_probabilities() -> None:
    from timm.loss import SoftTargetCrossEntropy

    logits, targets = torch.randn(5, 4), torch.rand(5, 4)
    torch.testing.assert_close(cross_entropy(logits, targets).mean(), SoftTargetCrossEntropy()(logits, targets))


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
        for group in layer_groups(tuned, layer_decay=0.75, weight_decay=0.05)
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


def test_groups_are_timms() -> None:
    from timm.optim import param_groups_layer_decay

    tuned = network()
    options: dict[str, Any] = {"weight_decay": 0.05, "layer_decay": 0.65}
    theirs = param_groups_layer_decay(tuned, no_weight_decay_list=tuned.no_weight_decay(), **options)  # type: ignore[operator]

    def by_parameter(groups: list[dict[str, Any]]) -> dict[int, tuple[float, float]]:
        return {id(p): (round(g["lr_scale"], 9), g["weight_decay"]) for g in groups for p in g["params"]}

    assert by_parameter(layer_groups(tuned, **options)) == by_parameter(theirs)


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
    tuned = Tuned(network("size_l"), 0.2)
    depth = len(tuned.paths) // 2
    assert [path.rate for path in tuned.paths] == pytest.approx(np.repeat(np.linspace(0, 0.2, depth), 2))


def test_each_drop_path_has_its_own_numbers_and_all_are_used() -> None:
    tuned, images = Tuned(network(), 0.5), torch.rand(6, 3, 32, 32)
    for parameter in tuned.parameters():  # else the classifier starts at zero
        parameter.data.normal_(generator=torch.Generator().manual_seed(0))
    kept = tuned(images, torch.ones(6, len(tuned.paths)))
    for path in range(2, len(tuned.paths)):  # the first block's have the rate 0
        uniform = torch.ones(6, len(tuned.paths))
        uniform[3, path] = 0.0
        differs = (tuned(images, uniform) - kept).abs().amax(1) > 1e-4
        assert differs.tolist() == [number == 3 for number in range(6)]


def test_crops_are_cut_from_images_that_are_kept_larger() -> None:
    stage = STAGE.model_copy(update={"finetuning": RECIPE.model_copy(update={"batch": 4})})
    task = Tuning(network(), stage, classes=3)
    run = Run(task, title="x", seed=0, total=8, batch=4, log_every=2, identity="")
    loss = run.update(torch.randint(256, (4, 3, 40, 40)).byte(), torch.arange(4) % 3)["loss"]
    assert float(loss) > 0


def test_micro_batches_equal_the_whole_batch() -> None:
    images, labels = torch.randint(256, (8, 3, 32, 32)).byte(), torch.arange(8) % 3
    stage = STAGE.model_copy(update={"finetuning": RECIPE.model_copy(update={"batch": 8})})
    start = network()
    found = []
    for micro_batch in (None, 3):
        task = Tuning(copy.deepcopy(start), stage, classes=3, micro_batch=micro_batch)
        run = Run(task, title="x", seed=0, total=8, batch=8, log_every=2, identity="")
        losses = [run.update(images, labels)["loss"] for _ in range(3)]
        found.append([*losses, *task.module.parameters()])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_crops_are_cut_from_images_as_they_are_kept() -> None:
    task = Tuning(network(), STAGE, classes=3)
    larger = torch.randint(256, (8, 3, 48, 48)).byte()
    measured = task.update(larger, torch.arange(8) % 3, randomness(), step=0, total=8)
    assert float(measured["loss"]) > 0


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
    update = Run.update
    for steps in (1, 5):
        left = iter(range(steps))

        def stopping(self: Run, *arguments: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return update(self, *arguments)

        folder = tmp_path / str(steps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "update", stopping)
            with pytest.raises(KeyboardInterrupt):
                tune(prepared, trained_row, folder)
        assert (folder / "resume/checkpoint.pt").exists()
        assert tune(prepared, trained_row, folder) == whole


def test_a_baseline_is_fine_tuned_without_a_tokenizer(prepared: Path, tmp_path: Path) -> None:
    recipe = MAETraining(**TRAINING.model_dump(), decoder_width=16, decoder_heads=2, decoder_blocks=1)
    folders = {"dataset": prepared / "dataset", "resume": tmp_path / "r", "out": tmp_path / "mae"}
    pretrain_baseline(BaselineStage(size=SIZE, mae=recipe), row="mae", seed=0, revision=1, **folders)
    tune(prepared, tmp_path / "mae", tmp_path, tokenizer=None)
    assert read_json(tmp_path / "out/finetune.json")["run"] == "mae"


def test_a_denoiser_wants_its_tokenizer(prepared: Path, trained_row: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name the folder of its --tokenizer"):
        tune(prepared, trained_row, tmp_path, tokenizer=None)


def test_a_block_that_there_is_not_is_named(prepared: Path, trained_row: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run: offset: \+7 is no block"):
        tune(prepared, trained_row, tmp_path, STAGE.model_copy(update={"offset": 7}))
