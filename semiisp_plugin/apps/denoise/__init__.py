"""Noisy inputs of pairs cleaned before phase 1 (Sec. A.3): ``basicsr denoise``.

    load_denoise_options(FILE)   option file -> options, checked
    denoise_folder(options)      a folder or LMDB of images -> another, same names, 16-bit PNG; resumable
    is_denoised(options)         whether that is done
    denoise_image(...)           one image, by any function

The paper's denoiser is KBNet with its SenseNoise weights; any registered network with weights will do. Without weights
OpenCV's non-local means does it, which is ours.
"""

from semiisp_plugin.apps.denoise.denoisers import (
    Denoiser,
    denoise_image,
    network_denoiser,
    noise_level,
    non_local_means,
)
from semiisp_plugin.apps.denoise.folder import DenoiseReport, denoise_folder, is_denoised, run_from_arguments
from semiisp_plugin.apps.denoise.options import DenoiseOptions, complete_denoise_options, load_denoise_options

__all__ = [
    "DenoiseOptions",
    "DenoiseReport",
    "Denoiser",
    "complete_denoise_options",
    "denoise_folder",
    "denoise_image",
    "is_denoised",
    "load_denoise_options",
    "network_denoiser",
    "noise_level",
    "non_local_means",
    "run_from_arguments",
]
