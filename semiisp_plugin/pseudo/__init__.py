"""Photographs to pseudo pairs."""

from semiisp_plugin.pseudo.generator import PseudoPair, PseudoPairGenerator
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels

__all__ = ["PseudoPair", "PseudoPairGenerator", "add_shot_read_noise", "draw_noise_levels"]
