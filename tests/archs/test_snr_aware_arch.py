"""SNR-Aware: names, sizes, the map, and the network against a plain reference of its formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes, probes
from torch import Tensor

from semiisp_plugin.archs.snr_aware_arch import SNRAware, snr_map

SMALL: dict[str, Any] = {"num_feat": 4, "num_block": 2, "layers": 2, "heads": 2, "head_feat": 3}

RECORDED = [  # mean, standard deviation, six values
    0.358796616795,
    0.312517685722,
    0.340324579517,
    0.289464519111,
    0.587321818152,
    0.166481070903,
    0.645930004415,
    -0.035867146203,
]


def fill(net: SNRAware, seed: int = 0) -> SNRAware:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        if parameter.ndim == 1:
            return (name.endswith("norm.weight") + 0.2 * u).astype(float)
        return u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def test_names_shapes_and_count_are_the_published_ones() -> None:
    with torch.device("meta"):
        net = SNRAware()
    assert sum(p.numel() for p in net.parameters()) == 39_124_099
    assert sum(p.numel() for p in net.transformer.parameters()) == 37_791_744
    assert names_and_shapes(net) == (118, "bcfb562a14cafa87ed4273cb53c9303f9bf4c514473730e6e7b2bec86b4d696c")
    names = {"transformer.layer_stack.5.pos_ffn.w_2.bias", "recon_trunk_light.5.conv2.weight", "HRconv.bias"}
    assert names <= set(net.state_dict())


def test_the_map_by_hand() -> None:
    """A grey ramp is its own blur but at the ends; one bright pixel is noise to all that are around it."""
    ramp = torch.linspace(0.2, 0.8, 21, dtype=torch.float64).expand(1, 3, 21, 21)
    inside = ramp[:, :1, :, 2:-2]
    torch.testing.assert_close(snr_map(ramp)[..., 2:-2], inside / inside.max(), rtol=0, atol=1e-6)
    image = torch.full((1, 3, 11, 11), 0.25, dtype=torch.float64)
    image[..., 5, 5] = 1.0
    found = snr_map(image)[0, 0]
    blurred = (24 * 0.25 + 1) / 25
    largest = 0.25 / 1e-4
    assert found[0, 0] == pytest.approx(largest / (largest + 1e-4))
    assert found[5, 5] == pytest.approx(blurred / (1 - blurred + 1e-4) / (largest + 1e-4))
    assert found[4, 4] == pytest.approx(blurred / (blurred - 0.25 + 1e-4) / (largest + 1e-4))


def attended_by_loops(net: SNRAware, features: Tensor, strength: Tensor) -> Tensor:
    """The transformer, patch by patch and head by head, for one image."""
    unfolded = F.unfold(features, 4, stride=4)[0].T
    strong = F.unfold(strength, 4, stride=4)[0].mean(0) > 0.5
    for layer in net.transformer.layer_stack:
        a, f = layer.slf_attn, layer.pos_ffn
        normed = F.layer_norm(unfolded, a.layer_norm.weight.shape, a.layer_norm.weight, a.layer_norm.bias, 1e-6)
        heads = []
        for h in range(SMALL["heads"]):
            rows = slice(h * SMALL["head_feat"], (h + 1) * SMALL["head_feat"])
            q, k, v = (normed @ w.weight[rows].T for w in (a.w_qs, a.w_ks, a.w_vs))
            shares = [
                torch.softmax(one @ k[strong].T / SMALL["head_feat"] ** 0.5, 0) @ v[strong]
                if strong.any()
                else v.mean(0)
                for one in q
            ]
            heads.append(torch.stack(shares))
        unfolded = unfolded + torch.cat(heads, 1) @ a.fc.weight.T
        normed = F.layer_norm(unfolded, f.layer_norm.weight.shape, f.layer_norm.weight, f.layer_norm.bias, 1e-6)
        unfolded = unfolded + f.w_2(f.w_1(normed).relu())
    return F.fold(unfolded.T[None], features.shape[2:], 4, stride=4)


@pytest.mark.parametrize("strong", ["some", "none"])
@torch.no_grad()
def test_transformer_against_loops(strong: str) -> None:
    net = fill(SNRAware(**SMALL))
    features = torch.randn(1, 4, 8, 12, dtype=torch.float64)
    strength = torch.zeros(1, 1, 8, 12, dtype=torch.float64)
    if strong == "some":
        strength[..., :4, 4:] = 0.9
    expected = attended_by_loops(net, features, strength)
    torch.testing.assert_close(net.transformer(features, strength), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_numbers_stay() -> None:
    """Recorded from this network: there is no code to compare with that may be used."""
    image = torch.from_numpy(np.random.RandomState(300).uniform(0, 1, (2, 3, 20, 27)))
    np.testing.assert_allclose(probes(fill(SNRAware(**SMALL))(image)), RECORDED, rtol=0, atol=1e-10)


@torch.no_grad()
def test_where_the_signal_is_strong_the_transformer_is_not_asked() -> None:
    net = fill(SNRAware(**SMALL))
    flat = torch.full((1, 3, 16, 16), 0.25, dtype=torch.float64)
    before = net(flat)
    net.transformer.layer_stack[0].slf_attn.fc.weight.add_(1)
    assert (net(flat) - before).abs().max() < 1e-2 * before.std()
    noisy = flat + 0.2 * torch.rand_like(flat)
    noisy[..., :4, :4] = 0.25  # the strongest, by which the map is scaled
    after = net(noisy)
    net.transformer.layer_stack[0].slf_attn.fc.weight.sub_(1)
    assert (net(noisy) - after).abs().max() > 1e-2 * before.std()


def test_odd_sizes_are_padded_by_reflection_and_cropped() -> None:
    net, image = fill(SNRAware(**SMALL)), torch.rand(1, 3, 21, 30).double()
    expected = net(F.pad(image, (0, 2, 0, 11), mode="reflect"))[..., :21, :30]
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_feat": 0}, "SNRAware: num_feat is 0; use 1 or more"), ({"layers": -1}, "layers is -1; use 0 or more")],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SNRAware(**options)
