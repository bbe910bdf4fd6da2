"""The enhancer: a network, where it runs, and how it gets through images that are larger than memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiisp_plugin.apps.enhance.matching import (
    DISAGREEMENT,
    disagreement,
    match_tone,
    reduce,
    reduction_for,
    sees_everything,
)
from semiisp_plugin.apps.tiling import Box, boxes, run_in_tiles
from semiisp_plugin.io.image_io import to_tensor

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_STRENGTH = 1.5
_SMALLEST_TILE = 16
_MULTIPLE = 16  # of tiles of networks that do not say what they need
# `tile: auto`: up to so many pixels, and with no longer side (attention along its rows grows with the square), an image
# goes through whole; larger ones in tiles of this side.
_WHOLE_PIXELS, _WHOLE_SIDE, _TILE = 2_000_000, 4096, 1024
# What torch says when the memory of a CPU is at an end.
_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


class NetworkError(ValueError):
    """The network is none that enhances, whatever the image."""


class Plan(NamedTuple):
    """How an image is taken through the network.

    Attributes:
        tile: Side of the tiles in pixels; None for the whole image at once.
        overlap: Pixels that neighbouring tiles share.
        multiple: Tiles begin at multiples of it.
        reduction: By what the image is reduced to which the tiles' tone may be matched; None: it is not.
        tiles: Number of tiles.
    """

    tile: int | None
    overlap: int
    multiple: int
    reduction: int | None
    tiles: int


class Enhancer:
    """Enhances images with a network.

    A network that offers ``prepare(image) -> context`` and ``apply_prepared(tile, context, box, size)``, as SepLUT and
    PQDynamicISP do, decides by the whole image what to do and then does it to each tile: the same as at once. Other
    networks see nothing but the tile (`semiisp_plugin.apps.tiling`); where they would have to see more, the tiles
    are brought to the tone of the whole image where they disagree (`semiisp_plugin.apps.enhance.matching`).

    An image is enhanced by itself: what comes before or after it changes nothing.

    Args:
        network: ``(1, 3, H, W)`` in [0, 1] to the same; is put into evaluation mode and moved to the device.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a torch device.
        precision: ``fp32``; ``bf16`` or ``fp16`` by autocast.
        tile: Side of the tiles in pixels; 0: the whole image; ``auto``: the whole image up to 2 megapixels, else
            1024. Tiles are halved when memory runs out.
        overlap: Pixels that neighbouring tiles share; default: an eighth of the tile, and none where the network
            decides by the whole image.
        match: Whether tiles are brought to the tone of the whole image; ``auto``: of networks whose result depends on
            more than a neighbourhood, which is tried out, where tiles differ from the whole image, both reduced.
        denoise: What is done to a noisy image first: ``float32`` (H, W, 3) in [0, 1] to the same.

    Raises:
        ValueError: An argument is outside what is said above.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "fp32",
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        match: bool | Literal["auto"] = "auto",
        denoise: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision: '{precision}' is none of {', '.join(PRECISIONS)}.")
        if tile != "auto" and (not isinstance(tile, int) or (tile != 0 and tile < _SMALLEST_TILE)):
            raise ValueError(f"tile: {tile} cannot be; give {_SMALLEST_TILE} pixels or more, 0 for none, or auto.")
        if overlap is not None and overlap < 0:
            raise ValueError(f"overlap: {overlap} pixels cannot be; give 0 or more.")
        if isinstance(tile, int) and tile and overlap is not None and 2 * overlap > tile:
            raise ValueError(f"overlap: {overlap} is more than half of the tile of {tile}; give {tile // 2} at most.")
        self.device = choose_device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.dtype = PRECISIONS[precision]
        self.tile = tile
        self.overlap = overlap
        self.match = match
        self.denoise = denoise
        self._asks = match == "auto"  # by the tiles' disagreement, whether they are matched
        self.decides_by_whole = all(callable(getattr(network, name, None)) for name in ("prepare", "apply_prepared"))
        self.multiple = _multiple_of(network)
        self._pad_to = _padding_of(network)
        self._too_large: dict[tuple[int, int], int] = {}  # size -> tile that fitted after memory had run out

    def enhance_image(
        self, image: np.ndarray, done: Callable[[int, int], None] | None = None, *, strength: float = 1.0
    ) -> np.ndarray:
        """Enhance an image.

        Args:
            image: RGB (H, W, 3): ``uint8``, ``uint16``, or floating point in [0, 1]. Grey (H, W) is taken as RGB.
            done: Called after each tile with how many are done and how many there are.
            strength: How far from the image (0) to the network's result (1) and beyond it, 0 to 1.5:
                image + strength * (result - image), clipped to [0, 1] before it is rounded.

        Returns:
            RGB (H, W, 3) of the image's type; floating point in [0, 1].

        Raises:
            ValueError: The image has another shape or type, the network's result has values that are not finite, or the
                strength is outside its range.
            NetworkError: The network gave something that is no image of its size.
        """
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"The image has shape {image.shape}; expected RGB (height, width, 3).")
        if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"The image is {image.dtype}; expected uint8, uint16 or floating point in [0, 1].")
        check_strength(strength)
        given = to_tensor(image)
        return blended(given, self.enhance_tensor(given[None], done)[0], strength, image.dtype)

    @torch.no_grad()
    def enhance_tensor(self, image: Tensor, done: Callable[[int, int], None] | None = None) -> Tensor:
        """Enhance ``(1, 3, H, W)`` in [0, 1] to the same, float32 on the CPU; see `enhance_image`."""
        if self.denoise is not None:
            image = to_tensor(self.denoise(image[0].float().permute(1, 2, 0).numpy()))[None]
        height, width = image.shape[-2:]
        while True:
            plan = self.plan(height, width)
            try:
                with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
                    out = self._run(image, plan, done)
                break
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or not self._smaller(height, width, plan):
                    raise
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if not bool(out.isfinite().all()):
            raise ValueError(
                "the network's result has values that are not finite; with --precision fp16, take bf16 or fp32, and "
                "otherwise look at the weights."
            )
        # In place, unless the network returned its input.
        return out.clamp(0, 1) if out.data_ptr() == image.data_ptr() else out.clamp_(0, 1)

    def plan(self, height: int, width: int) -> Plan:
        """How an image of this size is taken through the network."""
        tile = self._too_large.get((height, width))
        if tile is None:
            small = height * width <= _WHOLE_PIXELS and max(height, width) <= _WHOLE_SIDE
            tile = (None if small else _TILE) if self.tile == "auto" else self.tile or None
        if tile is None or (height <= tile and width <= tile):
            return Plan(None, 0, 1, None, 1)
        multiple = 1 if self.decides_by_whole else self.multiple
        reduction = reduction_for(height, width, tile) if self._matches() else None
        multiple = math.lcm(multiple, reduction or 1)
        tile = max(tile - tile % multiple, 2 * multiple)
        if self.overlap is not None:
            overlap = min(self.overlap, tile // 2)
        else:
            overlap = 0 if self.decides_by_whole else max(tile // 8, min(64, tile // 4))
        tiles = len(list(boxes((height, width), tile, overlap, multiple)))
        return Plan(tile, overlap, multiple, reduction, tiles)

    def _matches(self) -> bool:
        """Whether tiles are brought to the tone of the whole image."""
        if self.match == "auto":
            try:
                self.match = False if self.decides_by_whole else sees_everything(self._whole)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                self.match = False  # with so little memory tiles are a makeshift anyway
        return self.match

    def _smaller(self, height: int, width: int, plan: Plan) -> bool:
        """Halve the tiles for images of this size; False if they are as small as they may be."""
        smaller = (plan.tile or max(height, width)) // 2
        if smaller < max(_SMALLEST_TILE, 2 * self.multiple):
            return False
        self._too_large[height, width] = smaller
        return True

    def _run(self, image: Tensor, plan: Plan, done: Callable[[int, int], None] | None) -> Tensor:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        finished = 0

        def count() -> None:
            nonlocal finished
            finished += 1
            if done is not None:
                done(finished, plan.tiles)

        if plan.tile is None:
            out = self._whole(image).cpu()
            count()
            return out
        if self.decides_by_whole:
            network = cast(Any, self.network)
            with self._autocast():
                context = network.prepare(image.to(self.device))

            def one(tile: Tensor, box: Box) -> Tensor:
                with self._autocast():
                    result = network.apply_prepared(
                        tile.to(self.device), context, (box.rows.start, box.columns.start), size
                    )
                return self._checked(result, tile)

        else:

            def one(tile: Tensor, box: Box) -> Tensor:
                return self._whole(tile)

        if plan.reduction is not None:
            return self._matched(image, one, plan, count)
        return run_in_tiles(image, one, plan.tile, plan.overlap, plan.multiple, count)

    def _matched(
        self, image: Tensor, one: Callable[[Tensor, Box], Tensor], plan: Plan, count: Callable[[], None]
    ) -> Tensor:
        """Tiles as they are, or, where one differs from the whole (or it was asked for), brought to its tone."""
        assert plan.tile is not None
        assert plan.reduction is not None
        factor = plan.reduction
        small = reduce(image, factor)
        whole = self._whole(small)
        parts: dict[Box, tuple[Tensor, Tensor]] = {}
        size = (int(image.shape[-2]), int(image.shape[-1]))
        for box in boxes(size, plan.tile, plan.overlap, plan.multiple):
            rows, columns = (slice(s.start // factor, -(-s.stop // factor)) for s in box)
            parts[box] = self._whole(small[..., rows, columns]), whole[..., rows, columns]
        run = one
        if not self._asks or disagreement(parts.values()) > DISAGREEMENT:
            radius = max(4, plan.tile // (8 * factor))

            def run(tile: Tensor, box: Box) -> Tensor:
                return match_tone(one(tile, box).float(), *parts[box], factor, radius)

        return run_in_tiles(image, run, plan.tile, plan.overlap, plan.multiple, count)

    @torch.no_grad()
    def _whole(self, image: Tensor) -> Tensor:
        """The network's result for an image at once, on its device."""
        return self._checked(self._forward(image.to(self.device)), image).float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def _forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        down, right = -height % self._pad_to, -width % self._pad_to
        if down or right:
            mode = "reflect" if down < height and right < width else "replicate"
            image = F.pad(image, (0, right, 0, down), mode=mode)
        with self._autocast():
            out: Tensor = self.network(image)
        return out[..., :height, :width] if (down or right) and out.shape[-2:] == image.shape[-2:] else out

    def _checked(self, out: Any, image: Tensor) -> Tensor:
        """The network's result, if it is an image of the right size."""
        if not isinstance(out, Tensor) or out.shape != image.shape:
            what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise NetworkError(
                f"{type(self.network).__name__} turns inputs of {tuple(image.shape)} into {what}; to enhance, take a "
                "network that keeps the size (for BasicSR's super-resolution ones: upscale: 1)."
            )
        return out


def blended(given: Tensor, result: Tensor, strength: float, dtype: np.dtype[Any]) -> np.ndarray:
    """An image blended with what a network made of it; see `Enhancer.enhance_image`.

    Args:
        given: The image, (3, H, W) in [0, 1].
        result: The network's, float32 on the CPU; its memory is used.
        strength: 0 to 1.5.
        dtype: Of what is returned.

    Returns:
        RGB (H, W, 3).
    """
    if strength != 1:
        result = given.float().lerp(result, strength).clamp_(0, 1)
    if np.issubdtype(dtype, np.floating):
        return result.permute(1, 2, 0).contiguous().numpy().astype(dtype, copy=False)
    # In place: a large image is there often enough.
    result.mul_(int(np.iinfo(dtype).max)).round_()
    return np.ascontiguousarray(result.permute(1, 2, 0).numpy()).astype(dtype)


def check_strength(strength: float) -> None:
    """Raise a ValueError for a strength that `Enhancer.enhance_image` does not know."""
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(
            f"--strength: {strength} cannot be; give 0 (the picture as it is) to {MAX_STRENGTH} (1: the network's "
            f"result)."
        )


def choose_device(device: str | torch.device) -> torch.device:
    """The device of a name; ``auto`` is a GPU where there is one.

    Raises:
        ValueError: There is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: '{device}' is no device; give auto, cpu, cuda, cuda:1 or mps.") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: '{device}' asked for, {torch.cuda.device_count()} GPUs found; take auto or cpu.")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device: 'mps' is not available here; take auto or cpu.")
    return chosen


def _multiple_of(network: nn.Module) -> int:
    """Of how many pixels the network's sides are multiples, so that tiles are shrunk as the whole image is."""
    for name in ("multiple", "padder_size", "window_size"):
        value = getattr(network, name, None)
        if isinstance(value, int) and value >= 1:
            return value
    return math.lcm(_MULTIPLE, _padding_of(network))


def _padding_of(network: nn.Module) -> int:
    """To multiples of how many pixels an image has to be padded here; the plugin's own networks pad by themselves."""
    if type(network).__module__.startswith("semiisp_plugin."):
        return 1
    # BasicSR's SwinIR keeps it in its blocks only.
    sizes = (getattr(module, "window_size", 1) for module in network.modules())
    return math.lcm(*(size for size in sizes if isinstance(size, int) and size >= 1))


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_OUT_OF_MEMORY)
