from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ldae.parts import tokenizers
from ldae.parts.published import from_stable_diffusion
from ldae.parts.tokenizers import pixel
from ldae.parts.tokenizers.conv import Attention, Autoencoder, ConvTokenizer, GroupNorm, halving, sizes
from ldae.study.spec import Tokenizer

WIDTH, BLOCKS, CHANNELS = 4, 2, 3


def shaken(autoencoder: Autoencoder) -> Autoencoder:
    """The same with random biases and norms too, so that nothing is hidden behind a zero or a one."""
    generator = torch.Generator().manual_seed(1)
    for parameter in autoencoder.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return autoencoder


def small(**changes: int) -> Autoencoder:
    torch.manual_seed(0)
    return shaken(Autoencoder(**(dict(width=WIDTH, blocks=1, channels=CHANNELS) | changes)))


def pictures(num: int = 4, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(num, 3, 5, 5, generator=generator)
    return (0.5 * F.interpolate(coarse, size=size, mode="bicubic")).clamp(-1, 1)


def fit(autoencoder: Autoencoder, images: Tensor) -> dict[str, Tensor]:
    """What training leaves: the weights, and moments of the raw tokens of `images`."""
    weights = {f"autoencoder.{name}": tensor.detach().clone() for name, tensor in autoencoder.state_dict().items()}
    dim = 4 * len(autoencoder.post_quant.weight)
    blank = {"mean": torch.zeros(dim), "variance": torch.ones(dim)}
    raw = ConvTokenizer(weights | blank, dim=dim, scale="global").raw(images)
    return weights | pixel.fit([raw.flatten(0, 1)])


class Published:
    """Latent diffusion's KL-f8 as functions of named tensors, which are drawn when they are first asked for."""

    def __init__(self, naming: str) -> None:
        self.state: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(3)
        self.ldm = naming == "latent-diffusion"
        self.linear = not self.ldm
        self.attention = {
            "latent-diffusion": ("norm", "q", "k", "v", "proj_out"),
            "diffusers": ("group_norm", "to_q", "to_k", "to_v", "to_out.0"),
            "old diffusers": ("group_norm", "query", "key", "value", "proj_attn"),
        }[naming]

    def tensor(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            scale = max(1, torch.Size(shape[1:]).numel()) ** -0.5
            self.state[name] = scale * torch.randn(shape, generator=self.generator)
        return self.state[name]

    def conv(self, name: str, x: Tensor, out: int, size: int = 3, stride: int = 1) -> Tensor:
        weight, bias = self.tensor(f"{name}.weight", out, x.shape[1], size, size), self.tensor(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, stride=stride, padding=size // 2 if stride == 1 else 0)

    def norm(self, name: str, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        grouped = x.reshape(n, min(32, c // 2), -1)
        centred = grouped - grouped.mean(2, keepdim=True)
        normed = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).view(n, c, h, w)
        weight, bias = self.tensor(f"{name}.weight", c), self.tensor(f"{name}.bias", c)
        return normed * weight[:, None, None] + bias[:, None, None]

    def residual(self, name: str, x: Tensor, out: int) -> Tensor:
        y = self.norm(f"{name}.norm1", x)
        y = self.conv(f"{name}.conv1", y * y.sigmoid(), out)
        y = self.norm(f"{name}.norm2", y)
        y = self.conv(f"{name}.conv2", y * y.sigmoid(), out)
        shortcut = "nin_shortcut" if self.ldm else "conv_shortcut"
        return y + (x if x.shape[1] == out else self.conv(f"{name}.{shortcut}", x, out, 1))

    def attend(self, name: str, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        norm, *layers, proj = self.attention
        tokens = self.norm(f"{name}.{norm}", x).reshape(n, c, h * w)

        def project(layer: str, values: Tensor) -> Tensor:
            shape = (c, c) if self.linear else (c, c, 1, 1)
            weight, bias = self.tensor(f"{name}.{layer}.weight", *shape), self.tensor(f"{name}.{layer}.bias", c)
            return weight.reshape(c, c) @ values + bias[:, None]

        q, k, v = (project(layer, tokens) for layer in layers)  # (N, c, h w)
        weights = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) / c**0.5, dim=2)
        return x + project(proj, torch.einsum("nqk,nck->ncq", weights, v)).reshape(n, c, h, w)

    def middle(self, half: str, x: Tensor) -> Tensor:
        names = ("mid.block_1", "mid.attn_1", "mid.block_2")
        if not self.ldm:
            names = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")
        x = self.residual(f"{half}.{names[0]}", x, x.shape[1])
        x = self.attend(f"{half}.{names[1]}", x)
        return self.residual(f"{half}.{names[2]}", x, x.shape[1])

    def end(self, half: str, x: Tensor, out: int) -> Tensor:
        x = self.norm(f"{half}.{'norm_out' if self.ldm else 'conv_norm_out'}", x)
        return self.conv(f"{half}.conv_out", x * x.sigmoid(), out)

    def moments(self, images: Tensor) -> Tensor:
        x = self.conv("encoder.conv_in", images, WIDTH)
        for level, multiple in enumerate((1, 2, 4, 4)):
            for block in range(BLOCKS):
                name = f"down.{level}.block.{block}" if self.ldm else f"down_blocks.{level}.resnets.{block}"
                x = self.residual(f"encoder.{name}", x, WIDTH * multiple)
            if level < 3:
                name = f"down.{level}.downsample" if self.ldm else f"down_blocks.{level}.downsamplers.0"
                x = self.conv(f"encoder.{name}.conv", F.pad(x, (0, 1, 0, 1)), x.shape[1], stride=2)
        x = self.end("encoder", self.middle("encoder", x), 2 * CHANNELS)
        return self.conv("quant_conv", x, 2 * CHANNELS, 1)

    def decode(self, latents: Tensor) -> Tensor:
        x = self.conv("post_quant_conv", latents, CHANNELS, 1)
        x = self.middle("decoder", self.conv("decoder.conv_in", x, 4 * WIDTH))
        for step, multiple in enumerate((4, 4, 2, 1)):
            for block in range(BLOCKS + 1):
                name = f"up.{3 - step}.block.{block}" if self.ldm else f"up_blocks.{step}.resnets.{block}"
                x = self.residual(f"decoder.{name}", x, WIDTH * multiple)
            if step < 3:
                name = f"up.{3 - step}.upsample" if self.ldm else f"up_blocks.{step}.upsamplers.0"
                enlarged = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"decoder.{name}.conv", enlarged, x.shape[1])
        return self.end("decoder", x, 3)


@pytest.fixture(scope="module")
def published() -> Callable[[str], dict[str, Tensor]]:
    def state(naming: str) -> dict[str, Tensor]:
        theirs = Published(naming)
        theirs.moments(pictures())
        theirs.decode(torch.zeros(1, CHANNELS, 4, 4))
        return theirs.state

    return state


@pytest.mark.parametrize("naming", ["latent-diffusion", "diffusers", "old diffusers"])
def test_published_weights_give_the_published_output(naming: str) -> None:
    theirs = Published(naming)
    images, latents = pictures(), torch.randn(2, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(0))
    moments, decoded = theirs.moments(images), theirs.decode(latents)
    assert len({len(theirs.state)} | {len(small(blocks=BLOCKS).state_dict())}) == 1
    ours = Autoencoder(width=WIDTH, blocks=BLOCKS, channels=CHANNELS)
    ours.load_state_dict(from_stable_diffusion(theirs.state), strict=True)
    with torch.no_grad():
        mean, log_variance = ours.posterior(images)
        torch.testing.assert_close(torch.cat([mean, log_variance], dim=1), moments, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(latents), decoded, rtol=1e-5, atol=1e-5)


def test_the_vae_is_found_in_a_whole_diffusion_model_and_beside_its_loss(
    published: Callable[[str], dict[str, Tensor]],
) -> None:
    alone = published("latent-diffusion")
    expected = from_stable_diffusion(alone)
    others = {"loss.logvar": torch.zeros(1), "model.diffusion_model.out.0.weight": torch.zeros(2)}
    inside = {f"first_stage_model.{name}": tensor.half() for name, tensor in alone.items()}
    inside["first_stage_model.loss.logvar"] = torch.zeros(1)
    for state, tolerance in ((others | alone, 0.0), (others | inside, 1e-2)):
        found = from_stable_diffusion(state)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == torch.float32
            torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance)


def test_names_that_nobody_published_are_refused_with_the_right_ones() -> None:
    wanted = r"found 'down\.0\.weight', expected 'encoder\.down\.0\.block.*\(latent-diffusion\) or '.*\(diffusers\)"
    with pytest.raises(ValueError, match=wanted) as refusal:
        from_stable_diffusion({"down.0.weight": torch.zeros(1)})
    assert "\n" not in str(refusal.value)
    with pytest.raises(ValueError, match="found nothing"):
        from_stable_diffusion({})


def test_other_architectures_are_refused_in_one_line(published: Callable[[str], dict[str, Tensor]]) -> None:
    state = published("latent-diffusion")
    without = {name: tensor for name, tensor in state.items() if not name.startswith("quant_conv")}
    attending = state | {"encoder.down.3.attn.0.q.weight": torch.zeros(1)}
    grey = state | {"decoder.conv_out.weight": torch.zeros(1, WIDTH, 3, 3)}
    bare = {name: tensor for name, tensor in state.items() if "post_quant" not in name}
    for wrong, message in (
        (without, "quant.weight is absent, expected (6, 6, 1, 1)"),
        (attending, "attn.0.q.weight is (1,), expected nothing of this name"),
        (grey, "decoder.conv_out.weight is (1, 4, 3, 3), expected (3, 4, 3, 3)"),
        (bare, "post_quant.weight is absent"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)) as refusal:
            from_stable_diffusion(wrong)
        assert "\n" not in str(refusal.value)


def test_the_published_size_has_as_many_weights_as_published() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(width=128, blocks=2, channels=4)
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_653_863
    assert {module.num_groups for module in autoencoder.modules() if hasattr(module, "num_groups")} == {32}


def test_maps_are_an_eighth_as_high_and_wide_and_are_decoded_to_images() -> None:
    autoencoder, images = small(), pictures(2, size=64)
    mean, log_variance = autoencoder.posterior(images)
    assert mean.shape == log_variance.shape == (2, CHANNELS, 8, 8)
    assert autoencoder.decode(mean).shape == images.shape


def test_log_variances_are_limited() -> None:
    autoencoder = small()
    for bias, limit in ((1e4, 20.0), (-1e4, -30.0)):
        autoencoder.quant.bias.data[CHANNELS:] = bias
        mean, log_variance = autoencoder.posterior(pictures(1))
        assert (log_variance == limit).all()
        assert mean.abs().max() < 1e3


def test_halving_pads_on_the_right_and_below_alone() -> None:
    layer, image = halving(1), torch.arange(1.0, 65.0).view(1, 1, 8, 8)
    layer[1].bias.data.zero_()
    for place, expected in ((0, image[..., ::2, ::2]), (2, F.pad(image, (0, 2, 0, 2))[..., 2::2, 2::2])):
        layer[1].weight.data.zero_()
        layer[1].weight.data[..., place, place] = 1
        torch.testing.assert_close(layer(image), expected)


def test_groups_have_at_least_two_channels_and_number_at_most_32() -> None:
    assert [GroupNorm(width).num_groups for width in (4, 8, 32, 64, 128, 512)] == [2, 4, 16, 32, 32, 32]


def test_every_weight_has_a_gradient() -> None:
    autoencoder, images = small(), pictures(4)
    mean, log_variance = autoencoder.posterior(images)
    decoded = autoencoder.decode(mean + (0.5 * log_variance).exp() * torch.randn(mean.shape))
    ((decoded - images).square().mean() + (mean.square() + log_variance.square()).mean()).backward()
    silent = {name for name, p in autoencoder.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7}
    # what is added to every key changes no softmax
    assert silent <= {f"{half}.middle.1.k.bias" for half in ("encoder", "decoder")}


def test_attention_looks_everywhere() -> None:
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(1, 8, 4, 4)
    moved = x.clone()
    moved[..., 0, 0] += 3
    assert ((layer(moved) - layer(x)).abs().sum(1) > 1e-5).all()


def test_sizes_are_read_from_shapes() -> None:
    for found in (dict(width=4, blocks=1, channels=3), dict(width=8, blocks=3, channels=1)):
        with torch.device("meta"):
            state = Autoencoder(**found).state_dict()
        assert sizes(state) == found


def test_a_token_is_two_by_two_points_of_the_posteriors_mean() -> None:
    autoencoder, images = small(), pictures(3, size=64)
    tokenizer = ConvTokenizer(fit(autoencoder, images), dim=4 * CHANNELS, scale="global")
    raw = tokenizer.raw(images)
    assert raw.shape == (3, 16, 4 * CHANNELS)
    with torch.no_grad():
        mean, _ = autoencoder.posterior(images)
    torch.testing.assert_close(raw[1, 4 + 2], mean[1, :, 2:4, 4:6].flatten())  # the second row's third


@pytest.mark.parametrize("scale", ["dimension", "global"])
def test_latents_are_standardised_and_decoded_from_it(scale: str) -> None:
    autoencoder, images = small(), pictures(60)
    tokenizer = tokenizers.build(
        Tokenizer(kind="conv", dim=4 * CHANNELS, scale=scale),  # type: ignore[arg-type]
        fit(autoencoder, images),
    )
    assert isinstance(tokenizer, ConvTokenizer)
    raw, latents = tokenizer.raw(images), tokenizer.encode(images)
    torch.testing.assert_close(latents, tokenizer.standardise(raw))
    torch.testing.assert_close(latents, tokenizer.standardise(raw.double()).float())
    assert latents.mean((0, 1)).abs().max() < 1e-4
    variance, before = latents.var((0, 1)), raw.var((0, 1))
    # moments are those of the tokens, one by one
    if scale == "dimension":
        torch.testing.assert_close(latents.flatten(0, 1).var(0), torch.ones(4 * CHANNELS), rtol=1e-3, atol=0)
    else:
        assert latents.flatten(0, 1).var(0).mean().item() == pytest.approx(1, rel=1e-3)
        torch.testing.assert_close(variance / before, (variance / before)[0].expand(4 * CHANNELS), rtol=1e-3, atol=0)
    with torch.no_grad():
        expected = autoencoder.decode(autoencoder.posterior(images)[0])
    torch.testing.assert_close(tokenizer.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_cached_half_precision_tokens_become_float_latents() -> None:
    images = pictures(10)
    tokenizer = ConvTokenizer(fit(small(), images), dim=4 * CHANNELS, scale="dimension")
    cached = tokenizer.standardise(tokenizer.raw(images).half())
    assert cached.dtype == torch.float32
    torch.testing.assert_close(cached, tokenizer.encode(images), rtol=1e-2, atol=1e-2)


def test_a_frozen_autoencoder_is_not_trained_but_moves_along() -> None:
    autoencoder, images = small(), pictures(4)
    tokenizer = ConvTokenizer(fit(autoencoder, images), dim=4 * CHANNELS, scale="global")
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
    assert not tokenizer.encode(images).requires_grad
    in_float = tokenizer.encode(images)
    in_double = tokenizer.double().encode(images.double())
    assert in_double.dtype == torch.float64
    torch.testing.assert_close(in_double.float(), in_float, rtol=1e-3, atol=1e-4)


def test_building_a_tokenizer_draws_no_random_numbers_and_keeps_the_fit_as_it_was() -> None:
    fitted = fit(small(), pictures(4))
    before, state = {name: tensor.clone() for name, tensor in fitted.items()}, torch.get_rng_state()
    ConvTokenizer(fitted, dim=4 * CHANNELS, scale="global").double()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(fitted[name], tensor) for name, tensor in before.items())


def test_a_fit_of_other_dimensions_is_refused() -> None:
    fitted = fit(small(), pictures(4))
    with pytest.raises(ValueError, match="^tokenizer.dim: 16, but the fit has 12 dimensions$"):
        ConvTokenizer(fitted, dim=16, scale="global")
