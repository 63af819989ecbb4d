from __future__ import annotations

import importlib
import math
import pkgutil

import numpy as np
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from ldae.parts import methods
from ldae.parts.methods.mae import MAE
from ldae.parts.methods.moco_v3 import MoCo, info_nce, momentum_at
from ldae.parts.tokenizers.patches import patchify
from ldae.runtime.randomness import Randomness
from ldae.stages.pretrain import baseline_task
from ldae.study.base import Size
from ldae.study.methods import BASELINES, MAETraining, MoCoTraining
from ldae.study.stage_specs import BaselineStage
from ldae.training.step import AdamW

ENCODER = Size(width=16, heads=2, encoder_blocks=2, decoder_blocks=2)
RECIPE = {"steps": 1, "batch": 8, "rate": 0.1, "warmup": 0}
MAE_RECIPE = MAETraining(**RECIPE, decoder_width=8, decoder_heads=2, decoder_blocks=1)
MOCO_RECIPE = MoCoTraining(**RECIPE, hidden=32, out=8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomness() -> Randomness:
    return Randomness(torch.device("cpu"), 0)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 64, 64, generator=generator()) * 2 - 1


def normalised(images: Tensor) -> Tensor:
    """Images in [-1, 1] as both methods' authors give them to their networks."""
    return normalize((images + 1) / 2, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.fixture
def mae() -> MAE:
    torch.manual_seed(0)
    return MAE(ENCODER, MAE_RECIPE, 64)


@pytest.fixture
def moco() -> MoCo:
    torch.manual_seed(0)
    return MoCo(ENCODER, MOCO_RECIPE, 64)


@pytest.mark.parametrize("method", ["mae", "moco"])
def test_the_encoder_sees_images_normalised_by_imagenets_mean_and_deviation(
    method: str, images: Tensor, request: pytest.FixtureRequest
) -> None:
    encoder = request.getfixturevalue(method).encoder
    expected = encoder.blocks(encoder.embedded(patchify(normalised(images), 16)))
    torch.testing.assert_close(encoder(images), expected, rtol=1e-4, atol=1e-5)
    assert set(encoder.state_dict()) == {name for name, _ in encoder.named_parameters()}  # nothing more in its file


def test_every_method_has_a_module_of_its_name_and_every_module_is_a_method() -> None:
    modules = {module.name for module in pkgutil.iter_modules(methods.__path__)}
    assert modules == {*BASELINES, "encoder"}
    assert all(callable(importlib.import_module(f"ldae.parts.methods.{name}").build) for name in BASELINES)


def decaying(optimizer: AdamW, network: torch.nn.Module) -> dict[bool, set[str]]:
    """The names of the weights that decay, and of those that do not."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for group in optimizer.param_groups:
        found[group["weight_decay"] > 0] |= {names[id(parameter)] for parameter in group["params"]}
    return found


def test_all_that_moco_trains_decays(moco: MoCo) -> None:
    found = decaying(baseline_task(moco, BaselineStage(size=ENCODER, moco_v3=MOCO_RECIPE), 64).optimizers[0], moco)
    assert found[True] == {name for name, parameter in moco.named_parameters() if parameter.requires_grad}
    assert {"encoder.blocks.0.norm1.weight", "encoder.blocks.0.attn.qkv.bias"} <= found[True]


def test_matrices_and_the_mask_token_of_mae_decay_and_norms_and_biases_do_not(mae: MAE) -> None:
    found = decaying(baseline_task(mae, BaselineStage(size=ENCODER, mae=MAE_RECIPE), 64).optimizers[0], mae)
    assert {name.rpartition(".")[2] for name in found[True]} == {"weight", "mask_token"}
    assert {name for name in found[True] if "norm" in name} == set()
    assert {name for name in found[False] if not name.endswith(".bias") and "norm" not in name} == set()


def test_mae_hides_a_random_three_quarters_of_each_image(mae: MAE) -> None:
    order = mae.draw(400, randomness())
    assert order.shape == (400, 16)
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(400, 16))
    assert mae.num_kept == 4
    visible = torch.zeros(16).index_add_(0, order[:, :4].flatten(), torch.ones(1600))
    assert (visible - 100).abs().max() < 40  # every place is visible in a quarter of the images


def test_mae_never_sees_the_hidden_patches(mae: MAE, images: Tensor) -> None:
    """Its prediction is the same whatever stands there; only what it is compared with changes."""
    order = mae.draw(len(images), randomness())
    predicted: list[Tensor] = []
    mae.head.register_forward_hook(lambda module, inputs, output: predicted.append(output))
    mae(images, order)
    other = images.clone()
    for image, places in zip(other, order[:, 4:], strict=True):
        for place in places.tolist():
            y, x = 16 * (place // 4), 16 * (place % 4)
            image[:, y : y + 16, x : x + 16] = 0.3
    mae(other, order)
    torch.testing.assert_close(predicted[0], predicted[1])


def test_maes_loss_is_the_error_of_normalised_hidden_patches(mae: MAE, images: Tensor) -> None:
    order = mae.draw(len(images), randomness())
    predicted: list[Tensor] = []
    mae.head.register_forward_hook(lambda module, inputs, output: predicted.append(output))
    loss = mae(images, order)
    for number, image in enumerate(normalised(images).numpy()):
        errors = []
        for place in order[number, 4:].tolist():
            y, x = 16 * (place // 4), 16 * (place % 4)
            patch = image[:, y : y + 16, x : x + 16].flatten()
            target = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            errors.append(np.mean((predicted[0][number, place].detach().numpy() - target) ** 2))
        assert loss[number].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_maes_decoder_is_given_each_token_where_its_patch_stands(mae: MAE, images: Tensor) -> None:
    order = mae.draw(len(images), randomness())
    seen: dict[str, Tensor] = {}
    mae.narrow.register_forward_hook(lambda module, inputs, output: seen.update(encoded=output))
    mae.decoder.register_forward_pre_hook(lambda module, inputs: seen.update(tokens=inputs[0]))
    mae(images, order)
    tokens = seen["tokens"] - mae.positions
    for number, places in enumerate(order):
        torch.testing.assert_close(tokens[number, places[:4]], seen["encoded"][number])
        torch.testing.assert_close(tokens[number, places[4:]], mae.mask_token[0].expand(12, -1))


def test_contrast_is_the_cross_entropy_of_cosines() -> None:
    queries, keys = torch.randn(5, 8, generator=generator()), torch.randn(5, 8, generator=generator(1))
    found = info_nce(queries, keys)
    q, k = queries.double().numpy(), keys.double().numpy()
    cosines = (q @ k.T) / (np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(k, axis=1))
    exponentials = np.exp(cosines / 0.2)
    expected = -2 * 0.2 * np.log(np.diag(exponentials) / exponentials.sum(1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_mocos_loss_takes_both_views_as_query_and_as_key(moco: MoCo, images: Tensor) -> None:
    first, second = images, images.flip(-1)
    found = moco(first, second)
    with torch.no_grad():
        queries = [moco.predictor(moco.projector(moco.encoder(view).mean(1))) for view in (first, second)]
        keys = [moco.averaged_projector(moco.averaged_encoder(view).mean(1)) for view in (first, second)]
        logits = [F.normalize(queries[i]) @ F.normalize(keys[1 - i]).T / 0.2 for i in (0, 1)]
        expected = sum(0.4 * F.cross_entropy(one, torch.arange(6)) for one in logits)
    assert found.mean().item() == pytest.approx(float(expected), rel=1e-5)


def test_mocos_keys_and_patch_projection_have_no_gradient(moco: MoCo, images: Tensor) -> None:
    moco(images, images.flip(-1)).mean().backward()
    with_gradient = {name for name, parameter in moco.named_parameters() if parameter.grad is not None}
    assert not [name for name in with_gradient if name.startswith("averaged")]
    assert not [name for name in with_gradient if name.startswith("encoder.embed")]
    assert "encoder.blocks.0.attn.qkv.weight" in with_gradient
    assert "predictor.0.weight" in with_gradient


def test_mocos_averages_move_by_the_momentum(moco: MoCo) -> None:
    weight = moco.encoder.blocks[0].mlp.fc1.weight
    average = moco.averaged_encoder.blocks[0].mlp.fc1.weight
    before = average.clone()
    with torch.no_grad():
        weight.add_(1.0)
    moco.before_step(0.5)
    torch.testing.assert_close(average, 0.995 * before + 0.005 * weight)


def test_the_momentum_rises_from_099_to_1_by_half_a_cosine() -> None:
    assert momentum_at(0.0) == pytest.approx(0.99)
    assert momentum_at(0.5) == pytest.approx(0.995)
    assert momentum_at(1.0) == pytest.approx(1.0)
    assert momentum_at(0.25) == pytest.approx(1 - 0.01 * 0.5 * (1 + math.cos(math.pi / 4)))
