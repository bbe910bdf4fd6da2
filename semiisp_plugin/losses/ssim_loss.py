"""Structural similarity as a loss.

Reference:
    Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
    IEEE TIP 2004. The paper's Table 6 names an "SSIM loss" for denoising tasks without a definition: 1 - SSIM with
    the usual 11x11 Gaussian window, weight 1, is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semiisp_plugin.losses.per_sample import SampleLoss, full_precision
from semiisp_plugin.options.ranges import AboveZero, Size
from semiisp_plugin.registry import LOSS_REGISTRY, register

# K1 = 0.01 and K2 = 0.03 of Wang et al., squared, for images in [0, 1].
_C1 = 0.01**2
_C2 = 0.03**2


def gaussian_window(size: int, sigma: float, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One-dimensional Gaussian of ``size`` taps that sum to 1."""
    position = torch.arange(size, dtype=dtype, device=device) - (size - 1) / 2
    weights = torch.exp(-position.square() / (2 * sigma**2))
    return weights / weights.sum()


def ssim(pred: Tensor, target: Tensor, window_size: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean structural similarity of each image pair.

    Only windows that lie wholly inside the image count (as in the authors' code, scikit-image and BasicSR); channels
    are compared apart and averaged.

    Args:
        pred: ``(N, C, H, W)`` in [0, 1].
        target: As ``pred``.
        window_size: Side of the Gaussian window in pixels; at most the image's shorter side.
        sigma: Standard deviation of the window in pixels.

    Returns:
        ``(N,)`` in [-1, 1]; 1 for equal images. float32, or float64 for float64 input. Differentiable.

    Raises:
        ValueError: The image is smaller than the window.
    """
    n, channels, height, width = pred.shape
    if min(height, width) < window_size:
        raise ValueError(
            f"SSIM with a window of {window_size} pixels needs images at least that large; got {height}x{width} "
            f"(height x width). Use larger crops or a smaller `window_size`."
        )
    # E[x^2] - E[x]^2 loses most digits of half precision, and autocast would run the convolutions in it.
    with torch.autocast(device_type=pred.device.type, enabled=False):
        x = full_precision(pred).reshape(1, n * channels, height, width)
        y = full_precision(target).to(x.dtype).reshape(1, n * channels, height, width)
        window = gaussian_window(window_size, sigma, dtype=x.dtype, device=x.device)
        # The Gaussian is separable: a column and a row instead of a square. As the channels of one image, each with
        # its own filter, the maps take a twentieth of the time on a CPU that they take as single-channel images.
        moments = torch.cat([x, y, x * x, y * y, x * y], dim=1)
        groups = moments.shape[1]
        moments = F.conv2d(moments, window.view(1, 1, -1, 1).expand(groups, 1, -1, 1), groups=groups)
        moments = F.conv2d(moments, window.view(1, 1, 1, -1).expand(groups, 1, 1, -1), groups=groups)
        mean_x, mean_y, square_x, square_y, product = moments.chunk(5, dim=1)
        variance_x = square_x - mean_x.square()
        variance_y = square_y - mean_y.square()
        covariance = product - mean_x * mean_y
        similarity = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
            (mean_x.square() + mean_y.square() + _C1) * (variance_x + variance_y + _C2)
        )
        return similarity.reshape(n, -1).mean(dim=1)


@register(LOSS_REGISTRY)
class SSIMLoss(SampleLoss):
    """``1 - SSIM`` of each image pair, in [0, 2].

    Args:
        loss_weight: Factor on the whole loss.
        window_size: Side of the Gaussian window in pixels, odd.
        sigma: Standard deviation of the window in pixels.
        reduction: ``none`` gives ``(N,)``; ``mean`` and ``sum`` are over the samples.

    Raises:
        ValueError: Unknown reduction, even or non-positive window, non-positive sigma.
    """

    def __init__(
        self, loss_weight: float = 1.0, window_size: Size = 11, sigma: AboveZero = 1.5, reduction: str = "mean"
    ) -> None:
        super().__init__(loss_weight, reduction)
        if window_size < 1 or window_size % 2 == 0:
            raise ValueError(f"SSIMLoss: `window_size` must be odd and positive; got {window_size}.")
        if not sigma > 0:
            raise ValueError(f"SSIMLoss: `sigma` must be positive; got {sigma}.")
        self.window_size = window_size
        self.sigma = sigma

    def values(self, pred: Tensor, target: Tensor) -> Tensor:
        """See `ssim`."""
        # SSIM <= 1 up to rounding; a loss a hair below zero would turn the filter's threshold round.
        return (1 - ssim(pred, target, self.window_size, self.sigma)).clamp_min(0)
