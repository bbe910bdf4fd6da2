"""What the paper printed: PSNR and SSIM of its Tables 1 to 4 and 7 to 9, to stand beside figures of one's own.

Data, image sizes, numbers of pairs and networks of another experiment differ, so these are for orientation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TONE_MAPPING = "FiveK tone mapping"
GENERAL_ISP = "FiveK general ISP"
ENHANCEMENT = "FiveK IE"


@dataclass(frozen=True)
class PaperResult:
    """One network, trained with supervision alone and with semi-supervised learning.

    PSNR is in dB, without the correction by the ground truth's mean that Tables 4 and 9 print in brackets.
    """

    table: str
    task: str
    network: str
    pairs: int
    supervised_psnr: float
    supervised_ssim: float
    semi_psnr: float
    semi_ssim: float

    @property
    def gain(self) -> float:
        """PSNR with semi-supervised learning minus PSNR without, in dB."""
        return self.semi_psnr - self.supervised_psnr


PAPER_TASKS: tuple[str, ...] = (TONE_MAPPING, GENERAL_ISP, ENHANCEMENT, "LoLv1", "LoLv2", "LoLv2-syn")
"""The tasks that `PAPER_RESULTS` knows."""

PAPER_RESULTS: tuple[PaperResult, ...] = (
    PaperResult("1", TONE_MAPPING, "NAFNet-s", 100, 22.73, 0.889, 23.81, 0.907),
    PaperResult("1", TONE_MAPPING, "NAFNet-s", 500, 23.50, 0.886, 24.20, 0.917),
    PaperResult("1", TONE_MAPPING, "NAFNet-s", 4500, 24.73, 0.920, 24.87, 0.918),
    PaperResult("1", TONE_MAPPING, "SepLUT", 100, 21.54, 0.858, 23.98, 0.905),
    PaperResult("1", TONE_MAPPING, "SepLUT", 500, 22.38, 0.871, 24.67, 0.912),
    PaperResult("1", TONE_MAPPING, "SepLUT", 4500, 25.43, 0.922, 25.45, 0.922),
    PaperResult("1", TONE_MAPPING, "PQDynamicISP", 100, 23.07, 0.898, 24.12, 0.910),
    PaperResult("1", TONE_MAPPING, "PQDynamicISP", 500, 23.50, 0.900, 24.43, 0.910),
    PaperResult("1", TONE_MAPPING, "PQDynamicISP", 4500, 25.72, 0.933, 25.73, 0.934),
    PaperResult("1", GENERAL_ISP, "NAFNet-s", 100, 19.39, 0.777, 21.48, 0.872),
    PaperResult("1", GENERAL_ISP, "NAFNet-s", 500, 20.27, 0.800, 22.01, 0.874),
    PaperResult("1", GENERAL_ISP, "NAFNet-s", 4500, 22.53, 0.876, 22.55, 0.880),
    PaperResult("1", GENERAL_ISP, "SepLUT", 100, 20.11, 0.828, 21.66, 0.873),
    PaperResult("1", GENERAL_ISP, "SepLUT", 500, 20.84, 0.843, 22.12, 0.878),
    PaperResult("1", GENERAL_ISP, "SepLUT", 4500, 22.82, 0.891, 23.18, 0.897),
    PaperResult("1", GENERAL_ISP, "PQDynamicISP", 100, 20.62, 0.864, 21.94, 0.885),
    PaperResult("1", GENERAL_ISP, "PQDynamicISP", 500, 20.90, 0.865, 22.11, 0.886),
    PaperResult("1", GENERAL_ISP, "PQDynamicISP", 4500, 23.59, 0.911, 23.61, 0.913),
    PaperResult("8", ENHANCEMENT, "NAFNet-s", 100, 21.30, 0.827, 22.73, 0.855),
    PaperResult("8", ENHANCEMENT, "NAFNet-s", 500, 22.41, 0.854, 23.93, 0.898),
    PaperResult("8", ENHANCEMENT, "NAFNet-s", 4500, 24.52, 0.912, 24.73, 0.904),
    # Supervised SepLUT has the same figures for 100 and 500 pairs in Table 1: as printed.
    PaperResult("8", ENHANCEMENT, "SepLUT", 100, 21.54, 0.858, 23.04, 0.895),
    PaperResult("8", ENHANCEMENT, "SepLUT", 500, 22.38, 0.871, 24.28, 0.908),
    PaperResult("8", ENHANCEMENT, "SepLUT", 4500, 25.47, 0.921, 25.30, 0.919),
    PaperResult("8", ENHANCEMENT, "PQDynamicISP", 100, 22.63, 0.893, 23.59, 0.905),
    PaperResult("8", ENHANCEMENT, "PQDynamicISP", 500, 23.39, 0.896, 23.74, 0.891),
    PaperResult("8", ENHANCEMENT, "PQDynamicISP", 4500, 25.53, 0.928, 25.46, 0.928),
    PaperResult("4, 9", "LoLv1", "LLFormer", 485, 23.65, 0.816, 23.77, 0.832),
    PaperResult("4, 9", "LoLv1", "Retinexformer", 485, 23.89, 0.835, 23.78, 0.837),
    PaperResult("4, 9", "LoLv2", "LLFormer", 689, 20.06, 0.792, 21.66, 0.841),
    PaperResult("4, 9", "LoLv2", "Retinexformer", 689, 21.81, 0.837, 22.34, 0.844),
    PaperResult("4, 9", "LoLv2-syn", "LLFormer", 900, 24.04, 0.909, 25.33, 0.933),
    PaperResult("4, 9", "LoLv2-syn", "Retinexformer", 900, 25.89, 0.934, 26.17, 0.935),
)
"""Tables 1, 4, 8 and 9: the networks that were trained both ways."""

GT_MEAN: Mapping[tuple[str, str], tuple[tuple[float, float], tuple[float, float]]] = {
    ("LoLv1", "LLFormer"): ((25.76, 0.823), (26.12, 0.841)),
    ("LoLv1", "Retinexformer"): ((27.00, 0.853), (27.00, 0.854)),
    ("LoLv2", "LLFormer"): ((26.20, 0.819), (28.08, 0.868)),
    ("LoLv2", "Retinexformer"): ((28.16, 0.878), (28.39, 0.870)),
    ("LoLv2-syn", "LLFormer"): ((28.01, 0.927), (28.79, 0.942)),
    ("LoLv2-syn", "Retinexformer"): ((29.37, 0.943), (29.40, 0.944)),
}
"""Table 9 in brackets: PSNR and SSIM after the brightness was matched to the ground truth's mean, by task and network;
supervised, then with semi-supervised learning."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper: a network, and what it was trained with.

    SSIM is None where the paper prints none.
    """

    task: str
    network: str
    how: str
    pairs: int
    psnr: float
    ssim: float | None


def _sources(task: str, network: str, pairs: int, figures: tuple[tuple[float, float], ...]) -> tuple[PaperRow, ...]:
    names = ("UPI", "CycleISP", "SRISP", "RAWDiffusion", "ReRAW", "f_ISP")
    return tuple(PaperRow(task, network, n, pairs, *one) for n, one in zip(names, figures, strict=True))


def _alone(task: str, pairs: int, figures: Mapping[str, tuple[float, float | None]]) -> tuple[PaperRow, ...]:
    return tuple(PaperRow(task, network, "pairs alone", pairs, *one) for network, one in figures.items())


def _both(*tables: str) -> tuple[PaperRow, ...]:
    """The networks of `PAPER_RESULTS`."""
    return tuple(
        PaperRow(paper.task, paper.network, how, paper.pairs, psnr, ssim)
        for paper in PAPER_RESULTS
        if paper.table in tables
        for how, psnr, ssim in (
            ("pairs alone", paper.supervised_psnr, paper.supervised_ssim),
            ("semi-supervised", paper.semi_psnr, paper.semi_ssim),
        )
    )


_TONE_PQ = (
    _sources(
        TONE_MAPPING,
        "PQDynamicISP",
        100,
        ((23.40, 0.904), (23.32, 0.900), (23.39, 0.899), (23.21, 0.897), (23.82, 0.901), (24.12, 0.910)),
    ),
    _sources(
        TONE_MAPPING,
        "PQDynamicISP",
        4500,
        ((25.67, 0.932), (25.55, 0.929), (25.62, 0.932), (25.63, 0.932), (25.57, 0.930), (25.73, 0.934)),
    ),
)
_LOW_LIGHT = (
    *_alone("LoLv1", 485, {"LLFlow": (21.15, None), "SNR-Aware": (24.61, 0.842), "CIDNet": (23.81, 0.857)}),
    *_alone("LoLv1", 485, {"DRBN": (16.29, 0.617), "SMSNet": (21.91, 0.780), "LMT-GP": (24.12, None)}),
    *_alone(
        "LoLv2",
        689,
        {"LLFlow": (17.43, None), "SNR-Aware": (21.48, 0.849), "CIDNet": (24.11, 0.868), "DRBN": (20.29, 0.831)},
    ),
    # SNR-Aware's SSIM on LoLv2-syn is the one of LoLv1: as printed.
    *_alone("LoLv2-syn", 900, {"LLFlow": (24.81, None), "SNR-Aware": (24.14, 0.842), "CIDNet": (25.67, 0.930)}),
    *_alone("LoLv2-syn", 900, {"DRBN": (23.22, 0.927)}),
    *_both("4, 9"),
)
PAPER_TABLES: Mapping[str, tuple[PaperRow, ...]] = {
    "table1": (
        *_alone(TONE_MAPPING, 4500, {"MicroISP": (24.07, 0.909), "HDRNet": (24.52, 0.915), "3D LUT": (25.06, 0.920)}),
        *_alone(
            TONE_MAPPING, 4500, {"SYENet": (25.19, 0.922), "AdaInt": (25.28, 0.925), "F. Zhang et al.": (25.53, 0.907)}
        ),
        *_alone(TONE_MAPPING, 4500, {"LUTwithBGrid": (25.59, 0.932)}),
        *_alone(GENERAL_ISP, 4500, {"MicroISP": (21.64, 0.885), "SYENet": (22.24, 0.889)}),
        *_both("1"),
    ),
    "table2": (
        PaperRow(TONE_MAPPING, "PQDynamicISP", "UPI, neither OPF nor USQ", 100, 22.79, 0.889),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "UPI, OPF and USQ", 100, 23.40, 0.904),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "ReRAW, neither OPF nor USQ", 100, 23.15, 0.900),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "ReRAW, OPF and USQ", 100, 23.82, 0.901),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, neither OPF nor USQ", 100, 23.07, 0.890),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, OPF or USQ", 100, 23.31, 0.891),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, OPF and USQ", 100, 24.12, 0.910),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "UPI, neither OPF nor USQ", 4500, 25.44, 0.930),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "UPI, OPF and USQ", 4500, 25.67, 0.932),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "ReRAW, neither OPF nor USQ", 4500, 25.57, 0.931),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "ReRAW, OPF and USQ", 4500, 25.57, 0.930),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, neither OPF nor USQ", 4500, 25.57, 0.930),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, OPF or USQ", 4500, 25.63, 0.930),
        PaperRow(TONE_MAPPING, "PQDynamicISP", "f_ISP, OPF and USQ", 4500, 25.73, 0.934),
    ),
    "table3": (*_TONE_PQ[0], *_TONE_PQ[1]),
    "table4": _LOW_LIGHT,
    "table7": (
        *_sources(
            TONE_MAPPING,
            "NAFNet-s",
            100,
            ((23.64, 0.909), (23.35, 0.908), (23.67, 0.911), (23.12, 0.905), (23.35, 0.908), (23.81, 0.907)),
        ),
        *_sources(
            TONE_MAPPING,
            "SepLUT",
            100,
            ((23.55, 0.899), (23.69, 0.902), (23.79, 0.905), (23.53, 0.900), (23.80, 0.904), (23.98, 0.905)),
        ),
        *_TONE_PQ[0],
        *_sources(
            GENERAL_ISP,
            "NAFNet-s",
            100,
            ((21.20, 0.870), (21.15, 0.867), (21.41, 0.870), (20.68, 0.859), (20.84, 0.860), (21.48, 0.872)),
        ),
        *_sources(
            GENERAL_ISP,
            "SepLUT",
            100,
            ((21.26, 0.864), (21.38, 0.862), (21.27, 0.863), (21.18, 0.852), (21.01, 0.850), (21.66, 0.873)),
        ),
        *_sources(
            GENERAL_ISP,
            "PQDynamicISP",
            100,
            ((21.60, 0.879), (21.57, 0.875), (20.99, 0.867), (20.98, 0.867), (21.54, 0.881), (21.94, 0.885)),
        ),
    ),
    "table8": (
        *_alone(ENHANCEMENT, 4500, {"HDRNet": (24.66, 0.915), "3D LUT": (25.21, 0.922), "CSRNet": (25.17, 0.921)}),
        *_alone(
            ENHANCEMENT, 4500, {"AdaInt": (25.49, 0.926), "NamedCurves": (25.59, 0.936), "LUTwithBGrid": (25.66, 0.930)}
        ),
        *_both("8"),
    ),
    "table9": _LOW_LIGHT,
    "figure4": (),
    "figure5": (),
}
"""The rows of each table that `basicsr benchmark` knows; of Table 7 with 100 pairs. Figures 4 and 5 print no numbers.
In the copy of the paper that was read, Table 2 does not show which of OPF and USQ its row with one of them has."""
