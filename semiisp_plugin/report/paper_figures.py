"""What the paper printed: PSNR and SSIM of its Tables 1, 4, 8 and 9, to stand beside figures of one's own.

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
