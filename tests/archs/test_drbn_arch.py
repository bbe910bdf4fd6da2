"""DRBN and its discriminator: names, sizes, a unit and the recomposition against plain formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import filled, names_and_shapes
from torch import Tensor, nn

from semiisp_plugin.archs.colour_discriminator import ColourDiscriminator
from semiisp_plugin.archs.drbn_arch import DRBN

SMALL: dict[str, Any] = {"recurrences": 2, "num_feat": 4, "growth": 3}
PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "state_dicts.json"


def fill(net: nn.Module, seed: int = 0) -> Any:
    def value(name: str, parameter: Tensor, u: np.ndarray) -> np.ndarray:
        return 0.2 * u if parameter.ndim == 1 else u * 1.5 / np.sqrt(parameter[0].numel())

    return filled(net, seed, value)


def picture(*size: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(300).uniform(0, 1, (2, 3, *size)))


def test_names_shapes_and_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        first, both, discriminator = DRBN(), DRBN(recompose=True), ColourDiscriminator()
    assert sum(p.numel() for p in first.parameters()) == 557_668
    assert sum(p.numel() for p in both.parameters()) == 557_668 + 19_161
    assert sum(p.numel() for p in discriminator.parameters()) == 4_691_329
    assert names_and_shapes(first) == (336, "c2a18d516d07b7980bcbf9a005bb50aba7dbb0a174dbb389813f77e6234cfead")
    assert names_and_shapes(both) == (358, "883ffbfd8dff941318dfe9de116b30fe2624249d7e8fdeba7cad65d456a734cc")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the list of published names is not here")
def test_names_one_by_one() -> None:
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    with torch.device("meta"):
        own = {name: list(value.shape) for name, value in DRBN(recompose=True).state_dict().items()}
    begin = "recomposition."
    first = {name: shape for name, shape in own.items() if not name.startswith(begin)}
    second = {f"[model_R_s2] {n.removeprefix(begin)}": shape for n, shape in own.items() if n.startswith(begin)}
    assert first == published["drbn_stage1"]["tensors"]
    assert {f"[model_s2] {n}": shape for n, shape in first.items()} | second == published["drbn_stage2"]["tensors"]


# --- the first stage -------------------------------------------------------------------------------------------------


class Plain:
    """The first stage by its formulas, from a state alone."""

    def __init__(self, state: dict[str, Tensor], prefix: str) -> None:
        self.state, self.prefix = state, prefix

    def conv(self, name: str, x: Tensor, **how: int) -> Tensor:
        weight, bias = (self.state[f"{self.prefix}{name}.{kind}"] for kind in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, **how)

    def up(self, name: str, x: Tensor) -> Tensor:
        weight, bias = (self.state[f"{self.prefix}{name}.{kind}"] for kind in ("weight", "bias"))
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    def dense(self, number: int, x: Tensor) -> Tensor:
        grown = x
        for i in range(4):
            grown = torch.cat([grown, self.conv(f"RDBs.{number}.convs.{i}.conv.0", grown).relu()], dim=1)
        return x + self.conv(f"RDBs.{number}.LFF", grown)

    def image(self, name: str, x: Tensor) -> Tensor:
        return self.conv(f"{name}.1", self.conv(f"{name}.0", x))


def enlarged(image: Tensor, factor: int = 2) -> Tensor:
    for _ in range(factor // 2):
        size = (2 * image.shape[-2], 2 * image.shape[-1])
        image = F.interpolate(image, size, mode="bilinear", align_corners=False)
    return image


def by_formulas(state: dict[str, Tensor], image: Tensor, units: int) -> tuple[Tensor, Tensor, Tensor]:
    """The last unit's images of three sizes."""
    r1, old = image, [torch.zeros(())] * 3
    for number in range(1, units + 1):
        unit = Plain(state, f"recur{number}.")
        f0 = unit.conv("SFENet1", torch.cat([r1, image], 1)).relu()
        f1 = unit.conv("SFENet2", f0).relu()
        f2 = unit.conv("Down1", unit.dense(0, f1), stride=2)
        f4 = unit.conv("Down2", unit.dense(1, f2), stride=2)
        f4 = f4 + unit.dense(3, unit.dense(2, f4)) + old[2]
        f2 = f2 + unit.dense(4, unit.up("Up2", f4)) + old[1]
        f1 = f1 + unit.dense(5, unit.up("Up1", f2)) + f0 + old[0]
        old = [f1, f2, f4]
        r4 = unit.image("UPNet4", f4)
        r2 = unit.image("UPNet2", f2) + enlarged(r4)
        r1 = unit.image("UPNet", f1) + enlarged(r2)
    return r1, r2, r4


@torch.no_grad()
def test_first_stage_against_its_formulas() -> None:
    net, image = fill(DRBN(**SMALL)), picture(12, 20)
    expected, _, _ = by_formulas(net.state_dict(), image, 2)
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


# --- the second ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_recomposition_against_its_formula() -> None:
    net, image = fill(DRBN(**SMALL, recompose=True)), picture(12, 20)
    r1, r2, r4 = by_formulas(net.state_dict(), image, 2)
    bands = [enlarged(r4, 4), enlarged(r2) - enlarged(r4, 4), r1 - enlarged(r2)]
    torch.testing.assert_close(sum(bands), r1)
    part = Plain(net.state_dict(), "recomposition.")
    first = part.conv("SFENet1", torch.cat([image, *bands], 1))
    x = first + part.conv("GFF.1", part.conv("GFF.0", part.dense(0, part.conv("SFENet2", first))))
    weights = (0.8 * part.conv("UPNet2", part.conv("UPNet", x)) + 0.6).chunk(3, dim=1)
    expected = sum(weight * band for weight, band in zip(weights, bands, strict=True))
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)
    assert (net(image) - r1).abs().mean() > 0.01


@torch.no_grad()
def test_weights_of_one_give_the_first_stage() -> None:
    net, image = fill(DRBN(**SMALL, recompose=True)), picture(9, 14)
    net.recomposition.UPNet2.weight.zero_()
    net.recomposition.UPNet2.bias.fill_(0.5)  # 0.8 * 0.5 + 0.6
    first = DRBN(**SMALL).double()
    first.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("recomposition.")})
    torch.testing.assert_close(net(image), first(image), rtol=0, atol=1e-12)


def test_frozen_bands() -> None:
    net = DRBN(**SMALL, recompose=True, freeze_bands=True)
    trained = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert trained == {"recomposition"}
    net(picture(8, 8).float()).mean().backward()
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


@torch.no_grad()
def test_odd_sizes_are_padded_by_reflection_and_cropped() -> None:
    net, image = fill(DRBN(**SMALL, recompose=True)), picture(9, 14)
    expected = net(F.pad(image, (0, 2, 0, 3), mode="reflect"))[..., :9, :14]
    torch.testing.assert_close(net(image), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_feat": 0}, "DRBN: num_feat is 0; use 1 or more"),
        ({"recurrences": 0}, "DRBN: recurrences is 0; use 1 or more"),
        ({"freeze_bands": True}, "DRBN: freeze_bands leaves nothing to train without recompose: true"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRBN(**options)


# --- the discriminator -----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_discriminator() -> None:
    """A score an image; what it is told of colours beside the image does not know which is which."""
    net, images = fill(ColourDiscriminator(2)), picture(33, 40)
    scores = net(images)
    assert scores.shape == (2,)
    assert ((scores > 0) & (scores < 1)).all()
    assert not net.eval().state_dict().keys() & {"running_mean"}
    torch.testing.assert_close(net(images), net.train()(images))
    first = net.features[0].weight
    first[:, :3] = 0
    torch.testing.assert_close(net(images), net(images.flip(1)))
    first[:, :3], first[:, 3:] = 1, 0
    first[:, 0] = 2
    assert (net(images) - net(images.flip(1))).abs().max() > 1e-4
    assert net(images.bfloat16().double()).dtype == torch.float64
    assert net.bfloat16()(images.bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="ColourDiscriminator: expected an image batch"):
        net(images[:, :1])
