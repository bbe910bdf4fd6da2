"""Noisy inputs of pairs cleaned before phase 1 (Sec. A.3): ``basicsr denoise``.

The paper's denoiser is KBNet with its SenseNoise weights; any registered network with weights will do. Without weights
OpenCV's non-local means does it, which is ours.
"""
