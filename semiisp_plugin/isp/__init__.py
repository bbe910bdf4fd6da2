"""The image signal processor of invertible functions: pure torch, no BasicSR, no files, no options."""

from semiisp_plugin.isp.parameters import ISPSpec, ParameterBank
from semiisp_plugin.isp.pipeline import InverseResult, InvertibleISP

__all__ = ["ISPSpec", "InverseResult", "InvertibleISP", "ParameterBank"]
