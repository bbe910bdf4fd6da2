"""Networks that make RAW images of sRGB ones: sources of pseudo inputs that are trained on the pairs (Tables 3, 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semiisp_plugin.archs.image_network import ImageNetwork

Generators = torch.Generator | Sequence[torch.Generator]
"""The randomness of a batch: one generator for all images, or one for each, by which an image's draws are its own."""


def drawn(draw: Callable[[int, torch.Generator], Tensor], n: int, generator: Generators) -> Tensor:
    """What ``draw(n, generator)`` gives, or ``draw(1, ...)`` of each generator one after another.

    Raises:
        ValueError: There are several generators, but not ``n``.
    """
    if isinstance(generator, torch.Generator):
        return draw(n, generator)
    if len(generator) != n:
        raise ValueError(f"{len(generator)} generators for {n} images: give one for all, or one an image.")
    return torch.cat([draw(1, one) for one in generator])


class SRGBToRAWNetwork(ImageNetwork):
    """A network that makes a RAW image (or, for image enhancement, a degraded sRGB one) of each sRGB image.

    It is trained on the pairs reversed, with the loss that it brings itself (``train: own_loss``), and is a source of
    pseudo inputs then (`semiisp_plugin.pseudo.sources.NetworkInverse`). What it makes of an image may depend on chance.
    """

    gives_loss = True

    def check_usable(self) -> None:
        """Raise ValueError where something that training leaves is missing, without which nothing can be drawn."""

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """What training minimises.

        Args:
            image: (N, 3, H, W) sRGB in [0, 1].
            raw: (N, 3, H, W) in [0, 1], of the same scenes.
            generator: For what is drawn; on their device.

        Returns:
            (N,), a number a sample.
        """
        raise NotImplementedError

    def draw(self, image: Tensor, generator: Generators) -> Tensor:
        """One of the RAW images that each image may come of; of one-to-one networks, what :meth:`forward` gives.

        Args:
            image: (N, 3, H, W) sRGB in [0, 1].
            generator: One CPU generator, or one for each image; the only source of randomness.

        Returns:
            (N, 3, H, W), not clamped.
        """
        return self.enhance(image)

    def forward(  # type: ignore[override]  # more can be given
        self, image: Tensor, raw: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """A RAW image of each image, without chance; or, with ``raw`` and ``generator``, what :meth:`losses` gives.

        Through here, because a parallel wrapper knows no other way in.

        Raises:
            ValueError: The input is not (N, 3, H, W), or has no pixels.
        """
        if raw is None or generator is None:
            return super().forward(image)
        return self.losses(image, raw, generator)
