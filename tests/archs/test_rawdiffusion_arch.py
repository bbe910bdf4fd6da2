"""RAWDiffusion: names, sizes, the parts by plain arithmetic, noising and drawing, and the loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, seeded
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import pack_mosaic, unpack_mosaic
from semiisp_plugin.archs.rawdiffusion_arch import RAWDiffusion, ddim, signal_shares

SMALL: dict[str, Any] = {
    **{"num_feat": 8, "multipliers": [1, 2, 2], "num_res_block": 1, "attention": [4], "head_feat": 4},
    **{"guidance_feat": 4, "guidance_block": 1, "steps": 3},
}


def fill(net: RAWDiffusion, seed: int = 0) -> RAWDiffusion:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        return u * 0.3 + 0.5 if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    net = RAWDiffusion(mosaic=True, steps=24)
    assert sum(p.numel() for p in net.parameters()) == 25_004_644
    assert sum(p.numel() for p in net.rgb_guidance_module.parameters()) == 334_144
    assert (len(net.input_blocks), len(net.output_blocks), net.multiple) == (18, 18, 64)
    assert names_and_shapes(net) == (756, "9a04b8aceb7a5241d900835e8c77aad803ce914bd9da4eb6901d65ad934574b5")
    names = {
        "middle_block.1.qkv.weight",
        "output_blocks.2.2.in_norm.mlp_shared.0.bias",
        "input_blocks.3.0.emb_layers.1.bias",
    }
    assert names <= set(net.state_dict())


def test_default_is_of_three_channels_and_begins_grey() -> None:
    net = RAWDiffusion()
    assert sum(p.numel() for p in net.parameters()) == 25_004_067
    assert net.times == [999, 799, 599, 400, 200, 0]
    assert (RAWDiffusion(**SMALL)(torch.rand(1, 3, 9, 9)) == 0.5).all()


# --- noise -----------------------------------------------------------------------------------------------------------


def test_shares_of_signal() -> None:
    share, expected = 1.0, []
    for t in range(1000):
        share *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        expected.append(share)
    np.testing.assert_allclose(signal_shares(1000), expected, rtol=1e-12)
    assert expected[-1] < 5e-5


@pytest.mark.parametrize(("steps", "timesteps"), [(1, 1), (1, 1000), (2, 1000), (24, 1000), (1000, 1000), (7, 9)])
def test_steps_go_from_the_last_time_to_the_first(steps: int, timesteps: int) -> None:
    times = RAWDiffusion(**{**SMALL, "steps": steps, "timesteps": timesteps}).times
    assert (len(times), times[0]) == (steps, timesteps - 1)
    assert times[-1] == 0 or steps == 1
    falls = -np.diff(times)
    assert all(falls > 0)
    assert steps < 2 or falls.max() - falls.min() <= 1


def test_who_knows_the_image_draws_it() -> None:
    shares, image = signal_shares(100), torch.rand(2, 3, 4, 4).double()
    seen = []

    def perfect(x: Tensor, t: int) -> Tensor:
        seen.append((t, x))
        return image

    start = torch.randn(2, 3, 4, 4).double()
    assert torch.equal(ddim(start, perfect, [99, 50, 10, 0], shares), image)
    assert [t for t, _ in seen] == [99, 50, 10, 0]
    noise = (start - shares[99] ** 0.5 * image) / (1 - shares[99]) ** 0.5
    for t, x in seen:  # the noise stays the same, its share falls
        torch.testing.assert_close(x, shares[t] ** 0.5 * image + (1 - shares[t]) ** 0.5 * noise)


def test_ddim_against_a_recursion_of_numbers() -> None:
    shares = signal_shares(1000)
    x = 0.7
    for now, then in ((999, 499), (499, 0)):
        clean = math.sin(x + now)
        noise = (x - math.sqrt(shares[now]) * clean) / math.sqrt(1 - shares[now])
        x = math.sqrt(shares[then]) * clean + math.sqrt(1 - shares[then]) * noise
    found = ddim(torch.tensor(0.7, dtype=torch.float64), lambda x, t: (x + t).sin(), [999, 499, 0], shares)
    assert found.item() == pytest.approx(math.sin(x), abs=1e-12)


@pytest.mark.parametrize("mosaic", [False, True])
def test_training_adds_noise_as_the_formula_says(mosaic: bool) -> None:
    net, seen = RAWDiffusion(**{**SMALL, "timesteps": 10}, mosaic=mosaic), []

    def denoised(x: Tensor, time: Tensor, maps: Any) -> Tensor:
        seen.append((x, time))
        return torch.zeros_like(x)

    net.denoised = denoised
    raw = torch.rand(40, 3, 1, 1).expand(-1, -1, 64, 64)
    net(torch.rand(40, 3, 64, 64), raw, seeded())
    x, time = seen[0]
    assert set(time.tolist()) == set(range(10))
    share = torch.tensor(signal_shares(10))[time]
    expected = share.sqrt()[:, None] * (2 * (raw[:, [0, 1, 1, 2]] if mosaic else raw)[..., 0, 0] - 1)
    var, mean = torch.var_mean(x, (2, 3))
    noise = (1 - share).sqrt()[:, None]
    assert ((mean - expected).abs() < 5 * noise / x[0, 0].numel() ** 0.5).all()
    assert ((var / noise**2 - 1).abs() < 7 / x[0, 0].numel() ** 0.5).all()


# --- parts -----------------------------------------------------------------------------------------------------------


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)


def normed(x: Tensor, groups: int = 8) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    mean, var = parts.mean(-1, keepdim=True), parts.var(-1, correction=0, keepdim=True)
    return ((parts - mean) / (var + 1e-5).sqrt()).view_as(x)


def moved(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return normed(x) * layer.weight[:, None, None] + layer.bias[:, None, None]


def spade(layer: nn.Module, x: Tensor, guidance: Tensor) -> Tensor:
    small = F.interpolate(guidance, x.shape[2:], mode="bilinear")
    hidden = conv(layer.mlp_shared[0], small).relu()
    return normed(x) * (1 + conv(layer.mlp_gamma, hidden)) + conv(layer.mlp_beta, hidden)


def told(layer: nn.Module, time: Tensor, x: Tensor) -> Tensor:
    linear = layer.emb_layers[1]
    both = (time * time.sigmoid()) @ linear.weight.T + linear.bias
    scale, shift = both[:, : x.shape[1], None, None], both[:, x.shape[1] :, None, None]
    return x * (1 + scale) + shift


def test_block_on_the_way_down() -> None:
    net = fill(RAWDiffusion(**SMALL))
    block, x, time = net.input_blocks[2][0], torch.randn(2, 8, 8, 6).double(), torch.randn(1, 32).double()
    h = F.avg_pool2d(F.silu(moved(block.in_layers[0], x)), 2)
    h = told(block, time, moved(block.out_layers[0], conv(block.in_layers[2], h)))
    expected = F.avg_pool2d(x, 2) + conv(block.out_layers[3], F.silu(h))
    torch.testing.assert_close(block(x, time, None), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("up", [False, True])
def test_guided_block(up: bool) -> None:
    net = fill(RAWDiffusion(**SMALL))
    block = net.output_blocks[1][2] if up else net.output_blocks[2][0]
    x, time = torch.randn(2, 16 if up else 32, *((2, 3) if up else (4, 6))).double(), torch.randn(2, 32).double()
    guidance = torch.randn(2, 4, 8, 12).double()
    h = F.silu(spade(block.in_norm, x, guidance))
    skip = x
    if up:
        h, skip = (each.repeat_interleave(2, 2).repeat_interleave(2, 3) for each in (h, x))
    else:
        skip = F.conv2d(x, block.skip_connection.weight, block.skip_connection.bias)
    h = conv(block.in_layers[1], h)
    h = told(block, time, spade(block.out_norm, h, guidance))
    expected = skip + conv(block.out_layers[2], F.silu(h))
    torch.testing.assert_close(block(x, time, block.maps(guidance)), expected, rtol=0, atol=1e-11)


def test_attention_against_loops() -> None:
    net = fill(RAWDiffusion(**SMALL))
    layer, x = net.middle_block[1], torch.randn(1, 16, 2, 3).double()
    pixels = moved(layer.norm, x).flatten(2)[0]
    qkv = layer.qkv.weight[..., 0] @ pixels + layer.qkv.bias[:, None]
    heads = []
    for h in range(4):
        q, k, v = (qkv[12 * h + 4 * i : 12 * h + 4 * i + 4] for i in range(3))
        heads.append(torch.stack([v @ torch.softmax(k.T @ q[:, p] / 2, 0) for p in range(6)], 1))
    out = layer.proj_out.weight[..., 0] @ torch.cat(heads) + layer.proj_out.bias[:, None]
    torch.testing.assert_close(layer(x), x + out.view_as(x), rtol=0, atol=1e-11)


def test_times_are_cosines_then_sines() -> None:
    net, seen = fill(RAWDiffusion(**SMALL)), []
    net.time_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.denoised(torch.zeros(2, 3, 8, 8).double(), torch.tensor([3, 70]), net.maps(torch.zeros(2, 3, 8, 8)))
    angles = [[t * 10_000 ** (-i / 4) for i in range(4)] for t in (3, 70)]
    np.testing.assert_allclose(seen[0], np.concatenate([np.cos(angles), np.sin(angles)], 1), rtol=0, atol=1e-12)


def test_guidance_by_hand() -> None:
    net, image = fill(RAWDiffusion(**SMALL)).rgb_guidance_module, torch.rand(1, 3, 6, 7).double()

    def plain(layer: nn.Conv2d, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight, layer.bias, padding=1)

    x = plain(net.head[0], image)
    inner = x + plain(net.body[0].body[2], plain(net.body[0].body[0], x).relu())
    torch.testing.assert_close(net(image), x + plain(net.body[1], inner), rtol=0, atol=1e-12)


def test_a_mosaic_is_that_of_the_image_made_of_it() -> None:
    packed = torch.rand(2, 4, 5, 6).double()
    torch.testing.assert_close(pack_mosaic(unpack_mosaic(packed)), packed)
    flat = torch.rand(1, 3, 1, 1).expand(-1, -1, 4, 6)
    torch.testing.assert_close(unpack_mosaic(pack_mosaic(flat)), flat)


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mosaic", [False, True])
@torch.no_grad()
def test_draws_are_of_the_generators_alone(mosaic: bool) -> None:
    net, images = fill(RAWDiffusion(**SMALL, mosaic=mosaic)).float(), torch.rand(3, 3, 13, 10)
    first, again, other = (net.draw(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert (first - other).abs().mean() > 0.01
    assert torch.equal(net(images), net(images))
    alone = torch.cat([net.draw(images[i : i + 1], seeded(i)) for i in range(3)])
    torch.testing.assert_close(net.draw(images, [seeded(i) for i in range(3)]), alone, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        net.draw(images, [seeded(), seeded()])


@torch.no_grad()
def test_one_draw_by_hand_and_the_image_is_read_once() -> None:
    net, image = fill(RAWDiffusion(**SMALL)), torch.rand(1, 3, 7, 9).double()
    calls = []
    net.rgb_guidance_module.register_forward_hook(lambda *_: calls.append(1))
    found = net.draw(image, seeded(5))
    assert len(calls) == 1
    padded = F.pad(image, (0, 3, 0, 1), mode="reflect")
    maps = net.maps(2 * padded - 1)
    noise = torch.randn(1, 3, 8, 12, generator=seeded(5)).double()
    drawn = ddim(noise, lambda x, t: net.denoised(x, torch.tensor([t]), maps), [999, 500, 0], signal_shares(1000))
    torch.testing.assert_close(found, (drawn[..., :7, :9] + 1) / 2, rtol=0, atol=1e-12)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mosaic", [False, True])
def test_loss_by_hand_of_no_padded_pixel(mosaic: bool) -> None:
    net = RAWDiffusion(**SMALL, mosaic=mosaic)
    image, raw, guess = torch.rand(3, 2, 3, 10, 14).double()

    def denoised(x: Tensor, time: Tensor, maps: Any) -> Tensor:
        found = torch.ones_like(x)
        own = pack_mosaic(guess) if mosaic else guess
        found[..., : own.shape[2], : own.shape[3]] = 2 * own - 1
        return found

    net.denoised = denoised
    expected = []
    for a, b in zip(guess, raw, strict=True):
        if mosaic:
            a, b = pack_mosaic(a[None]), pack_mosaic(b[None])
        logarithms = (a + 1 / 255).log() - (b + 1 / 255).log()
        expected.append((a - b).square().mean() + (a - b).abs().mean() + logarithms.abs().mean())
    net.double()
    torch.testing.assert_close(net(image, raw, seeded()), torch.stack(expected))


def test_losses_are_of_their_own_samples() -> None:
    net, (image, raw) = fill(RAWDiffusion(**SMALL)), torch.rand(2, 3, 3, 9, 8).double()
    before = net(image, raw, seeded())
    assert before.shape == (3,)
    assert torch.equal(before, net(image, raw, seeded()))
    assert not torch.equal(before, net(image, raw, seeded(1)))
    image[1], raw[1] = torch.rand(2, 3, 9, 8).double()
    after = net(image, raw, seeded())
    assert after[1] != before[1]
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mosaic", [False, True])
def test_gradients_reach_all_that_is_trained_and_are_finite(mosaic: bool) -> None:
    net = fill(RAWDiffusion(**SMALL, mosaic=mosaic)).float()
    for image in (torch.rand(2, 3, 12, 20), torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)):
        net.zero_grad()
        losses = net(image, image, seeded())
        assert torch.isfinite(losses).all()
        losses.sum().backward()
        assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


def test_training_lowers_the_loss_and_what_is_drawn_comes_near() -> None:
    net, generator = RAWDiffusion(**{**SMALL, "guidance_feat": 8}), seeded()
    image = F.interpolate(torch.rand(4, 3, 3, 3, generator=generator), (16, 16), mode="bilinear")
    raw = 0.7 * image**2
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(150):
        loss = net(image, raw, generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.3 * losses[0], losses
    with torch.no_grad():
        for found in (net(image), net.draw(image, seeded(1))):
            assert (found - raw).abs().mean() < 0.3 * (0.5 - raw).abs().mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_feat": 1}, "RAWDiffusion: num_feat is 1; use 2 or more"),
        ({"multipliers": []}, r"multipliers is \[\]; give one or more numbers of 1 or more"),
        ({"num_res_block": 0}, "num_res_block is 0; use 1 or more"),
        ({"guidance_block": -1}, "guidance_block is -1; use 0 or more"),
        ({"steps": 0}, "steps is 0; use 1 or more"),
        ({"steps": 6, "timesteps": 5}, "timesteps is 5; use a number from steps, 6, to 1,000,000"),
        ({"head_feat": 5}, "16 channels make no heads of 5"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RAWDiffusion(**{**SMALL, **options})
