"""LLFlow and the pieces of flows: names, sizes, both directions, and likelihoods against autograd's Jacobian."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor

from semiisp_plugin.archs.flow import ActNorm, InvertibleConv, act_norms_are_fitted, fit_act_norms, with_kept_inverses
from semiisp_plugin.archs.llflow_arch import LLFlow, equalised

SMALL: dict[str, Any] = {
    **{"num_feat": 6, "num_block": 2, "num_grow_ch": 3, "stacked": [0]},
    **{"levels": 2, "flow_steps": 2, "hidden_feat": 5},
}


def fill(net: LLFlow, seed: int = 0) -> LLFlow:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        if name.endswith("invconv.weight"):
            return np.linalg.qr(u)[0] + 0.05 * u
        return (
            u * 0.2 if parameter.ndim == 1 or "logs" in name or "actnorm" in name else u / np.sqrt(parameter[0].numel())
        )

    return filled(net, seed, value)


# --- names and sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "counts", "names"),
    [
        (
            {},
            (38_859_481, 1_182_086, 1516),
            "58385c6880a3e5987e7823f8fb21bff40ea2398c93c9572a65a867ad3791bfe9",
        ),
        (
            {"num_feat": 32, "num_block": 4, "flow_steps": 4, "stacked": [1]},
            (5_429_849, 462_214, 412),
            "158fe2ffcf18a1cacdad7b632b590852c9cfe20d9e2679323c8e1a3e6c214351",
        ),
    ],
    ids=["standard", "small"],
)
def test_names_shapes_and_counts_are_the_published_ones(options, counts, names) -> None:
    net = LLFlow(**options)  # on "meta" it would take longer: rotations cannot be made there without an import
    assert sum(p.numel() for p in net.parameters()) == counts[0]
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == counts[1]
    assert names_and_shapes(net) == (counts[2], names)


# --- the encoder's images --------------------------------------------------------------------------------------------


def test_histograms_are_equalised_as_by_opencv() -> None:
    numbers = np.random.RandomState(0)
    image = np.round(numbers.beta(1, 4, (2, 3, 37, 41)) * 255).astype(np.uint8)
    image[0, 1] = 77  # of one value: as it is
    image[1, 2] //= 64
    expected = [[cv2.equalizeHist(channel) for channel in picture] for picture in image]
    found = equalised(torch.from_numpy(image) / 255)
    np.testing.assert_array_equal((found * 255).round().numpy(), expected)
    between = equalised((torch.from_numpy(image) + 0.4) / 255.4)  # rounded to 8 bits first
    assert (between - found).abs().max() < 0.05
    wild = torch.tensor([math.nan, -3.0, 0.5, 7.0]).view(1, 1, 2, 2)
    assert equalised(wild).flatten().tolist() == [0, 0, pytest.approx(127 / 255, abs=1e-2), 1]


def test_the_encoder_sees_logarithm_histogram_colours_and_their_changes() -> None:
    net, image = fill(LLFlow(**SMALL)), torch.rand(1, 3, 8, 12).double()
    seen: list[Tensor] = []
    net.RRDB.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features, colours = net.encoded(image)
    assert [tuple(f.shape) for f in features] == [(1, 12, 4, 6), (1, 12, 2, 3)]
    assert colours.shape == image.shape
    torch.testing.assert_close(colours[..., ::2, ::2], colours[..., 1::2, 1::2])  # of half the size
    logarithm, equal, shares, changes = seen[0].chunk(4, 1)
    torch.testing.assert_close(logarithm, (image + 1e-3).log())
    torch.testing.assert_close(equal, equalised(image))
    torch.testing.assert_close(shares, (image + 1e-3) / (image.sum(1, keepdim=True) + 3e-3 + 1e-4))
    y, x = 3, 5
    across = (shares[..., y, x + 1] - shares[..., y, x - 1]).abs() / 2
    down = (shares[..., y + 1, x] - shares[..., y - 1, x]).abs() / 2
    torch.testing.assert_close(changes[..., y, x], torch.maximum(across, down))
    edge = (shares[..., 0, 1] - shares[..., 0, 0]).abs(), (shares[..., 1, 0] - shares[..., 0, 0]).abs()
    torch.testing.assert_close(changes[..., 0, 0], torch.maximum(*edge) / 2)


# --- the flow --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_there_and_back(dtype: torch.dtype, tolerance: float) -> None:
    net = fill(LLFlow(**{**SMALL, "levels": 3, "flow_steps": 3})).to(dtype)
    image, target = torch.rand(2, 2, 3, 16, 24, dtype=dtype)
    features, _ = net.encoded(image)
    z, _ = net.flowUpsamplerNet(target, features)
    assert z.shape == (2, 192, 2, 3)
    back = net.flowUpsamplerNet.inverse(z, features)
    torch.testing.assert_close(back, target, rtol=0, atol=tolerance)
    other = net.flowUpsamplerNet(net.flowUpsamplerNet.inverse(z.flip(1), features), features)[0]
    torch.testing.assert_close(other, z.flip(1), rtol=0, atol=100 * tolerance)


def test_likelihood_is_that_of_the_jacobian() -> None:
    """log p(y) = log N(z; mean, 1) + log |det dz/dy|, by autograd, an image at a time."""
    net, (image, target) = fill(LLFlow(**SMALL)), torch.rand(2, 2, 3, 4, 8).double()
    found = net(image, target)
    numbers = 3 * 4 * 8
    for one in range(2):
        features, mean = net.encoded(image[one : one + 1])
        mean = F.pixel_unshuffle(mean, 4)

        def latent(y: Tensor, features: Any = features) -> Tensor:
            return net.flowUpsamplerNet(y.view(1, 3, 4, 8), features)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(latent, target[one].flatten())
        assert jacobian.shape == (numbers, numbers)
        normal = torch.distributions.Normal(mean.flatten(), 1.0).log_prob(latent(target[one])).sum()
        expected = numbers * math.log(32) - normal - torch.linalg.slogdet(jacobian).logabsdet
        assert found[one].item() == pytest.approx(expected.item() / numbers / math.log(2), rel=1e-9)


def test_the_mean_may_be_of_the_targets_colours_and_noise_is_of_a_step() -> None:
    net, (image, target, noise) = fill(LLFlow(**SMALL)), torch.rand(3, 2, 3, 8, 8).double()
    yes, no = torch.tensor(True), torch.tensor(False)
    assert torch.equal(net(image, target, None, no), net(image, target))
    assert not torch.equal(net(image, target, None, yes), net(image, target))
    torch.testing.assert_close(net(image, target, noise), net(image, target + (noise - 0.5) / 32))
    # The mean is of the target without its noise.
    features, _ = net.encoded(image)
    z, log_determinant = net.flowUpsamplerNet(target + (noise - 0.5) / 32, features)
    mean = F.pixel_unshuffle(target / (target.sum(1, keepdim=True) + 1e-4), 4)
    normal = torch.distributions.Normal(mean, 1.0).log_prob(z).sum((1, 2, 3))
    bits = 5 - (log_determinant + normal) / (192 * math.log(2))
    torch.testing.assert_close(net(image, target, noise, yes), bits)


def test_the_enhanced_image_has_the_mean_for_a_latent() -> None:
    net, image = fill(LLFlow(**SMALL)), torch.rand(2, 3, 8, 12).double()
    features, mean = net.encoded(image)
    torch.testing.assert_close(net.flowUpsamplerNet(net(image), features)[0], F.pixel_unshuffle(mean, 4))


def test_act_norms_are_fitted_once() -> None:
    """What they give for the first batch has mean 0 and variance 1; nothing but the weights says that it was done."""
    torch.manual_seed(0)
    net, (image, target) = LLFlow(**SMALL), torch.rand(2, 4, 3, 16, 16)
    assert not act_norms_are_fitted(net)
    before = net(image, target)
    fit_act_norms(net, lambda: net(image, target))
    assert act_norms_are_fitted(net)
    given: list[Tensor] = []
    for module in net.modules():
        if isinstance(module, ActNorm):
            module.register_forward_hook(lambda _m, _i, out: given.append(out.detach()))
    assert (net(image, target) < before).all()
    assert len(given) == 2 * (2 + 2 * 5)
    for out in given:
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(out.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(out.shape[1]), rtol=0, atol=1e-2)
    other = LLFlow(**SMALL)
    other.load_state_dict(net.state_dict())
    assert act_norms_are_fitted(other)


def test_inverses_are_kept_in_a_copy_alone() -> None:
    net, image = fill(LLFlow(**SMALL)), torch.rand(1, 3, 8, 8).double()
    copy = with_kept_inverses(net)
    kept = [m.kept_inverse is not None for n in (net, copy) for m in n.modules() if isinstance(m, InvertibleConv)]
    assert kept == 8 * [False] + 8 * [True]
    assert torch.equal(copy(image), net(image))
    assert copy.state_dict().keys() == net.state_dict().keys()
    plain = torch.nn.Conv2d(1, 1, 1)
    assert with_kept_inverses(plain) is plain


def test_recorded_output() -> None:
    image = torch.from_numpy(np.random.RandomState(800).uniform(0, 1, (2, 3, 14, 21)))
    recorded = [
        *(0.251107806916, 2.145404094292, 0.736632624352, -0.526374624768),
        *(-4.889461077703, 0.637996239137, -0.545910882956, -4.785140661477),
    ]
    np.testing.assert_allclose(probes(fill(LLFlow(**SMALL))(image)), recorded, rtol=0, atol=1e-8)


# --- sizes and precision ---------------------------------------------------------------------------------------------


def test_sides_are_padded_by_reflection_but_histograms_are_not() -> None:
    net, (image, target) = fill(LLFlow(**SMALL)), torch.rand(2, 1, 3, 7, 10).double()
    assert net(image).shape == image.shape
    padded = F.pad(image, (0, 2, 0, 1), mode="reflect")
    both = torch.cat([(padded + 1e-3).log(), F.pad(equalised(image), (0, 2, 0, 1), mode="reflect")], 1)
    seen: list[Tensor] = []
    net.RRDB.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert net(image, target).shape == (1,)
    torch.testing.assert_close(seen[0][:, :6], both)


def test_likelihood_in_bfloat16() -> None:
    torch.manual_seed(0)
    net, (image, target, noise) = LLFlow(**SMALL), torch.rand(3, 2, 3, 16, 16)
    fit_act_norms(net, lambda: net(image, target, noise))
    expected = net(image, target, noise)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(image, target, noise)
    mixed.mean().backward()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0.02)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    low = net.bfloat16()(image.bfloat16(), target.bfloat16(), noise)
    torch.testing.assert_close(low, expected, rtol=0, atol=0.1)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [True, False])
def test_gradients_reach_all_that_is_trained(chosen: bool) -> None:
    """Of whichever colours the mean is: a parallel wrapper waits for each."""
    net, (image, target, noise) = LLFlow(**SMALL), torch.rand(3, 2, 3, 12, 12)
    net(image, target, noise, torch.tensor(chosen)).mean().backward()
    missing = {name for name, p in net.named_parameters() if p.grad is None}
    assert missing == {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in missing} == {
        *("awb_para", "HRconv", "conv_last", "downconv2", "downconv3", "f")
    }


def test_images_of_a_batch_do_not_mix() -> None:
    net, (images, targets) = fill(LLFlow(**SMALL)), torch.rand(2, 3, 3, 12, 16).double()
    torch.testing.assert_close(net(images), torch.cat([net(image[None]) for image in images]), rtol=0, atol=1e-9)
    alone = torch.cat([net(image[None], target[None]) for image, target in zip(images, targets, strict=True)])
    torch.testing.assert_close(net(images, targets), alone, rtol=0, atol=1e-9)


def test_two_pairs_are_learned_by_heart() -> None:
    """By the likelihood alone the enhanced images come near the targets."""
    torch.manual_seed(0)
    wanted = F.interpolate(torch.rand(2, 3, 3, 3), (16, 16), mode="bilinear")
    image = 0.3 * wanted**2
    net, generator = LLFlow(**{**SMALL, "hidden_feat": 16}), torch.Generator().manual_seed(0)
    fit_act_norms(net, lambda: net(image, wanted, torch.rand(wanted.shape, generator=generator)))
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=5e-3)
    losses, errors = [], []
    for step in range(70):
        if step in (0, 69):
            with torch.no_grad():
                errors.append((net(image) - wanted).square().mean().item())
        loss = net(image, wanted, torch.rand(wanted.shape, generator=generator)).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 1
    assert errors[-1] < 0.1 * errors[0]


# --- what is wrong is named ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_feat": 0}, "num_feat is 0; use 1 or more"),
        ({"levels": 4}, "levels is 4; use 1, 2 or 3"),
        ({"flow_steps": 0}, "flow_steps is 0; use 1 or more"),
        ({"num_block": 1, "stacked": [0, 1]}, r"stacked is \[0, 1\], and the RRDBs of num_block 1 .* below that"),
        ({"stacked": [0, 0]}, r"stacked is \[0, 0\].*each once"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLFlow(**{**SMALL, **options})


def test_target_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"the target is \(1, 3, 8, 9\), the image \(1, 3, 8, 8\)"):
        LLFlow(**SMALL)(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
