"""Semi-supervised learning for learned camera ISPs and image enhancement, as a plugin for BasicSR.

Importing the package registers its architectures, data sets, losses, metrics and models in BasicSR's registries.
"""

from semiisp_plugin import archs, data, losses, metrics, models
from semiisp_plugin._version import __version__

__all__ = ["__version__", "archs", "data", "losses", "metrics", "models"]
