"""Photographs to pseudo pairs."""

from semiisp_plugin.pseudo.generator import PseudoPair, PseudoPairGenerator
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels
from semiisp_plugin.pseudo.noise_estimation import NoiseEstimate, estimate_noise, estimate_noise_bounds
from semiisp_plugin.pseudo.sources import UPI, BankInverse, DeterministicInverse, SRGBToRAW

__all__ = [
    "UPI",
    "BankInverse",
    "DeterministicInverse",
    "NoiseEstimate",
    "PseudoPair",
    "PseudoPairGenerator",
    "SRGBToRAW",
    "add_shot_read_noise",
    "draw_noise_levels",
    "estimate_noise",
    "estimate_noise_bounds",
]
