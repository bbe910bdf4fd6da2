"""The image signal processor of invertible functions: the mathematics alone, no BasicSR, no options."""

from semiisp_plugin.isp.invertible_isp import BACKENDS, InverseResult, InvertibleISP, PaperLUTSettings
from semiisp_plugin.isp.parameters import ISPSpec, ParameterBank

__all__ = ["BACKENDS", "ISPSpec", "InverseResult", "InvertibleISP", "PaperLUTSettings", "ParameterBank"]
