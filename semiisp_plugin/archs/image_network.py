"""What all networks do with what they are given, and those that go over large images in parts."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor, nn

from semiisp_plugin.archs.blocks import N_COLOURS, check_image, widened

Context = TypeVar("Context")


class ImageNetwork(nn.Module):
    """A network that makes of each image another one of its size.

    Attributes:
        colours: Channels of both.
    """

    colours = N_COLOURS

    def enhance(self, image: Tensor) -> Tensor:
        """What :meth:`forward` does with a batch that has been checked."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> Tensor:
        """Enhance a batch.

        Args:
            image: (N, 3, H, W) RGB in [0, 1].

        Returns:
            (N, 3, H, W), of the input's dtype, or float32 where that is of lower precision.

        Raises:
            ValueError: The input is not (N, 3, H, W), or has no pixels.
        """
        check_image(type(self).__name__, image, self.colours)
        return self.enhance(image)


class PreparedNetwork(ImageNetwork, Generic[Context]):
    """A network that decides by the whole image, and then treats each pixel by itself."""

    def decide(self, image: Tensor) -> Context:
        """What :meth:`prepare` does with a batch that has been checked."""
        raise NotImplementedError

    def treat(self, tile: Tensor, context: Context, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """What :meth:`apply_prepared` does with a tile that has been checked and is float32 at least."""
        raise NotImplementedError

    def prepare(self, image: Tensor) -> Context:
        """All that :meth:`apply_prepared` needs to know of a whole image, to go over it in parts.

        Args:
            image: (N, 3, H, W) RGB in [0, 1].

        Raises:
            ValueError: The input is not (N, 3, H, W), or has no pixels.
        """
        check_image(type(self).__name__, image)
        return self.decide(image)

    def apply_prepared(self, tile: Tensor, context: Context, box: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Enhance a part of an image; together the parts are what :meth:`forward` makes of the whole.

        Args:
            tile: (N, 3, h, w), the part.
            context: What :meth:`prepare` made of the whole image.
            box: Row and column of its upper left pixel. Networks that treat all places alike do not look at it.
            size: Height and width of the whole image; likewise.

        Returns:
            (N, 3, h, w), of the tile's dtype, or float32 where that is of lower precision.

        Raises:
            ValueError: The tile is not (N, 3, h, w), or has no pixels.
        """
        check_image(type(self).__name__, tile)
        return self.treat(widened(tile), context, box, size)

    def enhance(self, image: Tensor) -> Tensor:
        """See `ImageNetwork.enhance`."""
        return self.apply_prepared(image, self.prepare(image), (0, 0), (image.shape[-2], image.shape[-1]))
