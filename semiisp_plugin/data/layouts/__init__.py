"""Data sets as they are distributed: one module a family, saying which files are pairs and how they are read."""

from __future__ import annotations

from semiisp_plugin.data.layouts import fivek, lol, own
from semiisp_plugin.data.layouts.base import DataSet

DATA_SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        lol.LOLV1,
        lol.LOLV2_REAL,
        lol.LOLV2_SYNTHETIC,
        fivek.FIVEK_TONE_MAPPING,
        fivek.FIVEK_GENERAL_ISP,
        fivek.FIVEK_IE,
        own.OWN,
    )
}
"""Data sets of pairs, by their name on the command line."""
