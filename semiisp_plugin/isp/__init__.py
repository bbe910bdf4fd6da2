"""The image signal processor of invertible functions: the mathematics alone, no BasicSR, no options."""

from semiisp_plugin.isp.parameters import ISPSpec, ParameterBank
from semiisp_plugin.isp.pipeline import BACKENDS, InverseResult, InvertibleISP, PaperLUTSettings

__all__ = ["BACKENDS", "ISPSpec", "InverseResult", "InvertibleISP", "PaperLUTSettings", "ParameterBank"]
