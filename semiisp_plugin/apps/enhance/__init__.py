"""Trained networks on people's images: files, folders, RAW files, of any size; ``basicsr enhance``."""

from semiisp_plugin.apps.enhance.batch import EnhanceReport, enhance_files
from semiisp_plugin.apps.enhance.command import run_from_arguments
from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import load_network
from semiisp_plugin.io.picture import Picture, read_picture

__all__ = [
    "EnhanceReport",
    "Enhancer",
    "Picture",
    "enhance_files",
    "load_network",
    "read_picture",
    "run_from_arguments",
]
