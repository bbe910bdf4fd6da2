"""Pieces and checks that several networks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_COLOURS = 3


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        pixels = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, eps=1e-6)
        return pixels.permute(0, 3, 1, 2)


class Gate(nn.Module):
    """One half of the channels times the other, (N, 2 C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        first, second = x.chunk(2, dim=1)
        return first * second


class DenseConvs(nn.Module):
    """Five convolutions, each of which sees the input and all before it, (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, growth: int) -> None:
        super().__init__()
        for i in range(5):
            self.add_module(f"conv{i + 1}", nn.Conv2d(inputs + i * growth, growth if i < 4 else outputs, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        seen = [x]
        for i in range(4):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{i + 1}")(torch.cat(seen, 1)), 0.2))
        out: Tensor = self.get_submodule("conv5")(torch.cat(seen, 1))
        return out


def widened(x: Tensor) -> Tensor:
    """The same in float32 where it is of lower precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def likeness(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Softmax of ``scale`` times the cosines between rows, (..., m, d), (..., n, d) -> (..., m, n)."""
    # At least float32: sums over all pixels, and a guard against a zero norm, 1e-12, that is zero itself in float16.
    wide = torch.promote_types(first.dtype, torch.float32)
    first, second = (F.normalize(rows.to(wide), dim=-1) for rows in (first, second))
    return (scale * (first @ second.transpose(-2, -1))).softmax(dim=-1)


def as_thumbnail(image: Tensor, side: int, *, antialias: bool = False) -> Tensor:
    """The whole of an image as a square, (N, C, H, W) -> (N, C, side, side), bilinear."""
    # Of an image of that size it would be the image. A graph that is made with one is for others as well.
    if not torch.compiler.is_compiling() and tuple(image.shape[2:]) == (side, side):
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)


def pad_to_multiple(image: Tensor, multiple: int, least: int = 0) -> Tensor:
    """Pad (N, C, H, W) at the bottom and the right to sides that are multiples of ``multiple``, by reflection.

    Sides of fewer than ``least`` pixels, a multiple itself, are padded to that.

    An axis too short to be reflected is padded by repeating its last pixel.
    """
    # By an index, without branches: an exported graph is for all sizes. One axis at a time: reflection needs more
    # pixels than it adds, and an axis that lacks them must not decide for the other.
    for axis in (2, 3):
        side = image.shape[axis]
        more: Any = -side % multiple  # a number, or a symbol of one while a graph is made
        if least:
            more = torch.sym_max(more, least - side)
        places = torch.arange(side + more, device=image.device)
        last = torch.full_like(places, side - 1)
        beyond = torch.where(torch.full_like(places, more) < side, 2 * last - places, last)
        image = image.index_select(axis, torch.where(places < side, places, beyond))
    return image


def reflect_border(image: Tensor, border: int) -> Tensor:
    """Pad all sides of (N, C, H, W) by ``border`` pixels by reflection, where that ends by repeating the last one."""
    for axis in (2, 3):  # by an index, as above
        last = image.shape[axis] - 1
        places = torch.arange(-border, last + 1 + border, device=image.device).abs()
        image = image.index_select(axis, (last - (last - places).abs()).clamp_min(0))
    return image


def pack_mosaic(image: Tensor) -> Tensor:
    """Sample an RGB image as a Bayer mosaic, (N, 3, H, W) -> (N, 4, H / 2, W / 2), of even sides.

    The channels are the pixels of each 2x2 in the order of rows: red, green, green, blue.
    """
    upper, lower = image[:, :2, ::2], image[:, 1:, 1::2]
    return torch.cat([upper[:, :1, :, ::2], upper[:, 1:, :, 1::2], lower[:, :1, :, ::2], lower[:, 1:, :, 1::2]], dim=1)


def unpack_mosaic(packed: Tensor) -> Tensor:
    """An RGB image whose mosaic is the given one, (N, 4, H, W) -> (N, 3, 2 H, 2 W).

    Red and blue are the same for the four pixels of each 2x2, as is the mean of both greens where there is none.
    """
    red, green, other_green, blue = packed.unbind(1)
    mean = (green + other_green) / 2
    return F.pixel_shuffle(torch.stack([*[red] * 4, mean, green, other_green, mean, *[blue] * 4], dim=1), 2)


def check_image(network: str, image: Tensor, channels: int = N_COLOURS) -> None:
    """Raise ValueError unless ``image`` is a batch (N, channels, H, W) with pixels."""
    if image.ndim != 4 or image.shape[1] != channels:
        raise ValueError(f"{network}: expected an image batch (N, {channels}, H, W), got shape {tuple(image.shape)}.")
    if 0 in image.shape:
        raise ValueError(f"{network}: the image batch of shape {tuple(image.shape)} has no pixels.")


def check_at_least(network: str, lowest: int, **options: int) -> None:
    """Raise ValueError unless the options are ``lowest`` or more."""
    for name, value in options.items():
        if value < lowest:
            raise ValueError(f"{network}: {name} is {value}; use {lowest} or more.")


def check_numbers(network: str, example: Sequence[int], lowest: int = 0, **options: Sequence[int]) -> None:
    """Raise ValueError unless the options are lists of numbers of ``lowest`` or more, all of one length."""
    for name, numbers in options.items():
        if not numbers or min(numbers) < lowest:
            raise ValueError(
                f"{network}: {name} is {list(numbers)}; give one or more numbers of {lowest} or more, such as "
                f"{list(example)}."
            )
    if len({len(numbers) for numbers in options.values()}) > 1:
        found = ", ".join(f"{name} {list(numbers)} has {len(numbers)} numbers" for name, numbers in options.items())
        raise ValueError(f"{network}: {found}; give both as many.")
