"""Pieces of normalising flows: invertible layers whose Jacobians have determinants that are known.

They are Glow's (Kingma & Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions", NeurIPS 2018), its
coupling with conditions. A layer's call goes from images towards the latent, ``inverse`` back, and ``log_determinant``
is the logarithm of the absolute determinant of the Jacobian of the call. What they compute with is float32 at least,
under ``torch.autocast`` as well; only the networks inside of a coupling are of lower precision there.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)

_LEAST_SCALE = 1e-4  # of a coupling: what is divided by on the way back


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class ActNorm(nn.Module):
    """A shift and a scale of each channel, (N, C, H, W) -> (N, C, H, W) of the input's dtype.

    They start as 0 and 1; `fit_act_norms` makes the outputs of a first batch have mean 0 and variance 1, after which
    they are weights like others (Sec. 3.1 of Glow). Nothing else says whether that was done: all zeros mean that it was
    not.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        wide = _wide(x)
        return ((x.to(wide) + self.bias.to(wide)) * self.logs.to(wide).exp()).to(x.dtype)

    def inverse(self, z: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        wide = _wide(z)
        return (z.to(wide) * (-self.logs.to(wide)).exp() - self.bias.to(wide)).to(z.dtype)

    def log_determinant(self, x: Tensor) -> Tensor:
        """0-dim, of any one image (C, H, W) of ``x``."""
        return self.logs.to(_wide(x)).sum() * (x.shape[2] * x.shape[3])

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set both so that the outputs for this batch have mean 0 and variance 1 in each channel."""
        var, mean = torch.var_mean(x.to(_wide(x)), (0, 2, 3), keepdim=True, correction=0)
        self.bias.copy_(-mean)
        self.logs.copy_(-(var.sqrt() + 1e-6).log())


def act_norms_are_fitted(network: nn.Module) -> bool:
    """Whether `fit_act_norms` was done, or weights of a training were loaded. A network without any needs none."""
    first = next((module for module in network.modules() if isinstance(module, ActNorm)), None)
    return first is None or bool(first.bias.any() | first.logs.any())


@torch.no_grad()
def fit_act_norms(network: nn.Module, run: Callable[[], object]) -> None:
    """Fit each `ActNorm` of a network to what it gets, one after the other, as ``run()`` goes through them."""

    def fit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, ActNorm)
        module.fit(inputs[0])

    found = [module for module in network.modules() if isinstance(module, ActNorm)]
    hooks = [module.register_forward_pre_hook(fit) for module in found]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


class InvertibleConv(nn.Module):
    """A 1x1 convolution with as many outputs as inputs, (N, C, H, W) -> (N, C, H, W), float32 at least.

    It starts as a random rotation (Sec. 3.2 of Glow).

    Attributes:
        kept_inverse: (C, C), see `with_kept_inverses`; None: it is worked out whenever it is needed.
    """

    kept_inverse: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.register_buffer("kept_inverse", None, persistent=False)

    def inverse_weight(self) -> Tensor:
        """The inverse of the weight, (C, C), worked out in float64; of the weight's dtype, float32 at least."""
        if self.kept_inverse is not None:
            return self.kept_inverse
        return torch.linalg.inv(self.weight.double()).to(_wide(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return _mixed(x, self.weight)

    def inverse(self, z: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        return _mixed(z, self.inverse_weight())

    def log_determinant(self, x: Tensor) -> Tensor:
        """0-dim, of any one image (C, H, W) of ``x``."""
        return torch.linalg.slogdet(self.weight.to(_wide(x))).logabsdet * (x.shape[2] * x.shape[3])


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """Channels (N, C, H, W) times a matrix (C, C), float32 at least."""
    wide = _wide(x)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x.to(wide), matrix.to(wide)[:, :, None, None])


class LUConv(nn.Module):
    """A 1x1 convolution whose determinant is never 0, whatever its weights are, (N, C, H, W) -> (N, C, H, W).

    Its matrix is P (L + 1) (U + D): a permutation, strict triangles, and a diagonal, of whose entries the signs stay,
    and the logarithms are learned (Sec. 3.2 of Glow). It starts as a rotation. The way back needs no solver, which
    ONNX lacks: a strict triangle N has N^C = 0, and so the inverse of 1 + N is the sum of (-N)^k for k below C.
    """

    p: Tensor
    sign_s: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        p, lower, upper = torch.linalg.lu(nn.init.orthogonal_(torch.empty(channels, channels)))
        self.lower = nn.Parameter(lower)  # what is not in a strict triangle does nothing, here and in `upper`
        self.log_s = nn.Parameter(upper.diagonal().abs().log())
        self.upper = nn.Parameter(upper)
        self.register_buffer("p", p)
        self.register_buffer("sign_s", upper.diagonal().sign())

    def _parts(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """P, L, U, the diagonal of D, and 1."""
        diagonal = self.sign_s.to(dtype) * self.log_s.to(dtype).exp()
        one = torch.eye(len(diagonal), dtype=dtype, device=diagonal.device)
        return self.p.to(dtype), self.lower.to(dtype).tril(-1), self.upper.to(dtype).triu(1), diagonal, one

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        with torch.autocast(x.device.type, enabled=False):
            p, lower, upper, diagonal, one = self._parts(_wide(x))
            return _mixed(x, p @ (lower + one) @ (upper + diagonal.diag()))

    def inverse(self, z: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        with torch.autocast(z.device.type, enabled=False):
            p, lower, upper, diagonal, one = self._parts(_wide(z))
            first = second = one
            for _ in range(len(diagonal) - 1):
                first, second = one - first @ lower, one - second @ (upper / diagonal[:, None])
            return _mixed(z, (second / diagonal) @ first @ p.T)

    def log_determinant(self, x: Tensor) -> Tensor:
        """0-dim, of any one image (C, H, W) of ``x``."""
        return self.log_s.to(_wide(x)).sum() * (x.shape[2] * x.shape[3])


def with_kept_inverses(network: Net) -> Net:
    """A copy whose invertible convolutions keep their inverses, for graphs of operations that cannot invert a matrix.

    The copy's weights are not to be changed. A network without any is given back as it is.
    """
    if not any(isinstance(module, InvertibleConv) for module in network.modules()):
        return network
    network = deepcopy(network)
    for module in network.modules():
        if isinstance(module, InvertibleConv):
            module.kept_inverse = module.inverse_weight().detach()
    return network


class Squeeze(nn.Module):
    """Pixels of 2x2 become channels, (N, C, H, W) -> (N, 4 C, H / 2, W / 2); its determinant is 1."""

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return F.pixel_unshuffle(x, 2)

    def inverse(self, z: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        return F.pixel_shuffle(z, 2)


class _NormedConv(nn.Conv2d):
    """A convolution followed by `ActNorm` in place of a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.actnorm = ActNorm(outputs)
        nn.init.normal_(self.weight, std=0.05)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.actnorm(super().forward(x))
        return out


class _ZeroConv(nn.Conv2d):
    """A 3x3 convolution that starts as 0, and a learned scale of its outputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self.logs = nn.Parameter(torch.zeros(outputs, 1, 1))
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3 * self.logs).exp()


class ConditionalCoupling(nn.Module):
    """Shifts and scales that are predicted, (N, C, H, W) with features (N, F, H, W) -> (N, C, H, W).

    First all channels get those that a network makes of the features; then the second half of the channels those that
    another makes of the first half and the features: ``(z + shift) * scale``. Scales are from 1e-4 to 1, 0.88 at first.

    Args:
        channels: C, even.
        features: F.
        hidden: Channels of both networks.
    """

    def __init__(self, channels: int, features: int, hidden: int) -> None:
        super().__init__()

        def network(inputs: int, outputs: int) -> nn.Sequential:
            first, second = _NormedConv(inputs, hidden, 3), _NormedConv(hidden, hidden, 1)
            return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), _ZeroConv(hidden, outputs))

        self.split = channels // 2
        self.fAffine = network(self.split + features, channels)
        self.fFeatures = network(features, 2 * channels)

    def _of_features(self, features: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        return _shift_and_scale(self.fFeatures(features).to(like.dtype))

    def _of_half(self, half: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return _shift_and_scale(self.fAffine(torch.cat([half.to(features.dtype), features], 1)).to(half.dtype))

    def forward(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """As the class says.

        Returns:
            z, and the log-determinant of each sample, (N,).
        """
        shift, scale = self._of_features(features, x)
        z = (x + shift) * scale
        first, second = z[:, : self.split], z[:, self.split :]
        shift, other = self._of_half(first, features)
        z = torch.cat([first, (second + shift) * other], 1)
        return z, scale.log().sum((1, 2, 3)) + other.log().sum((1, 2, 3))

    def inverse(self, z: Tensor, features: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        first, second = z[:, : self.split], z[:, self.split :]
        shift, scale = self._of_half(first, features)
        z = torch.cat([first, second / scale - shift], 1)
        shift, scale = self._of_features(features, z)
        return z / scale - shift


def _shift_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Channels in turn, (N, 2 C, H, W) -> twice (N, C, H, W)."""
    return x[:, ::2], (x[:, 1::2] + 2).sigmoid() + _LEAST_SCALE


class FlowStep(nn.Module):
    """`ActNorm`, `InvertibleConv` and, where there are ``features``, `ConditionalCoupling`.

    Args:
        channels: Of the image.
        features: Of the condition; 0: no coupling.
        hidden: See `ConditionalCoupling`.
    """

    def __init__(self, channels: int, features: int = 0, hidden: int = 0) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.invconv = InvertibleConv(channels)
        self.affine = ConditionalCoupling(channels, features, hidden) if features else None

    def forward(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> (N, C, H, W), and the log-determinant, 0-dim, or (N,) with a coupling."""
        z = self.invconv(self.actnorm(x))
        log_determinant = self.actnorm.log_determinant(x) + self.invconv.log_determinant(x)
        if self.affine is None:
            return z, log_determinant
        z, of_coupling = self.affine(z, features)
        return z, log_determinant + of_coupling

    def inverse(self, z: Tensor, features: Tensor) -> Tensor:
        """What the call makes ``z`` of."""
        if self.affine is not None:
            z = self.affine.inverse(z, features)
        return self.actnorm.inverse(self.invconv.inverse(z))
