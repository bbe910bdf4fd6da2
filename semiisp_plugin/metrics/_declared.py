"""What a metric says about itself: which images it takes, and what it needs before the first pair.

BasicSR calls a metric as ``f(img=..., img2=..., **options)`` with 8-bit images. The plugin's validation reads the
attributes that the decorators here set, and BasicSR's own does not: a metric has to make do with 8 bits, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

from semiisp_plugin.toolbox import METRIC_REGISTRY

F = TypeVar("F", bound=Callable[..., Any])
Images = Literal["8 bit", "float", "unclamped float"]


def takes_floats(*, clamped: bool = True) -> Callable[[F], F]:
    """Declare that a metric wants images before they are rounded to 8 bits.

    It then gets float64 ``(H, W, C)`` in BasicSR's order (B, G, R), 255 for white.

    Args:
        clamped: To [0, 255]; without, the network's output as it is. (Targets lie in [0, 255] by themselves.)
    """

    def declare(function: F) -> F:
        function.takes = "float" if clamped else "unclamped float"  # type: ignore[attr-defined]  # is set here
        return function

    return declare


def prepared_by(prepare: Callable[..., None]) -> Callable[[F], F]:
    """Declare what is to be done, or found missing, before the first image: before training begins.

    Args:
        prepare: Called with the metric's options.
    """

    def declare(function: F) -> F:
        function.prepare = prepare  # type: ignore[attr-defined]  # is set here
        return function

    return declare


def images_for(settings: dict[str, Any]) -> Images:
    """Which images the metric of a section of ``val: metrics`` takes."""
    return getattr(METRIC_REGISTRY.get(settings["type"]), "takes", "8 bit")


def prepare_metric(settings: dict[str, Any]) -> None:
    """Do what the metric of a section of ``val: metrics`` needs before its first pair.

    Raises:
        RuntimeError: Something is missing; the message says what to do.
    """
    prepare = getattr(METRIC_REGISTRY.get(settings["type"]), "prepare", None)
    if prepare is not None:
        prepare(**{k: v for k, v in settings.items() if k not in ("type", "better")})
