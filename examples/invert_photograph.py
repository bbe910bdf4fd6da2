"""Invert a photograph: one picture, twelve RAWs that f_ISP turns into that picture.

    python examples/invert_photograph.py                                a cat, and an ISP with random parameters
    python examples/invert_photograph.py --f_isp f_isp.pth my_photo.jpg

It writes invert_photograph.png. The parameter sets are drawn from the bank of a trained f_ISP (train_f_isp.py makes
one), or, without one, around the starting values. The inverse is exact but for what is clipped, and for rounding.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from semiisp_plugin import InvertibleISP, ISPSpec, ParameterBank, load_f_isp
from semiisp_plugin.io.image_io import read_image, to_float, to_tensor
from semiisp_plugin.report.grids import draw_grid
from semiisp_plugin.simulation.photographs import load_photographs

COUNT = 12


def random_bank(generator: torch.Generator, spread: float = 0.15) -> ParameterBank:
    """A bank of sets around the starting values, in the ISP's own free numbers: each set is a valid ISP."""
    spec = ISPSpec()
    bank = ParameterBank(spec, capacity=100)
    bank.append(spec.squash(spread * torch.randn(100, spec.n_parameters, 1, 1, generator=generator)))
    return bank


def invert(photograph: Tensor, isp: InvertibleISP, sets: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """RAWs of a photograph ``(3, H, W)``, f_ISP of them, their clipped shares, and the worst error of the rest."""
    photographs = photograph.expand(len(sets), -1, -1, -1)
    made = isp.inverse(photographs, sets)
    again = isp.forward(made.image, sets)
    whole = ((made.image > 0) & (made.image < 1)).all(dim=1, keepdim=True)  # pixels without a clipped value
    return made.image, again, made.clipped, float(((again - photographs).abs() * whole).max())


def main() -> None:
    """Draw the sets, invert, compare, and draw a sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", nargs="?", metavar="FILE")
    parser.add_argument("--f_isp", metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="invert_photograph.png", metavar="FILE")
    args = parser.parse_args()
    pixels = read_image(args.photograph) if args.photograph else load_photographs(["kitten_lawn"])["kitten_lawn"]
    photograph = to_tensor(to_float(pixels)).float()

    generator = torch.Generator().manual_seed(args.seed)
    bank = load_f_isp(args.f_isp)[1]["global"] if args.f_isp else random_bank(generator)
    sets = bank.draw(COUNT, generator)
    raws, again, clipped, error = invert(photograph, InvertibleISP(bank.spec), sets)
    print(f"{COUNT} RAWs; what is not clipped, f_ISP gives back within {255 * error:.2f} of 255 levels")

    # RAWs are linear, hence dark: shown with a gamma of 2.2, as a camera's own preview would.
    shown = raws ** (1 / 2.2)
    texts = [f"RAW {n}: {share:.1%} clipped" for n, share in enumerate(clipped.tolist(), 1)]
    half = COUNT // 2
    rows = [[photograph, *shown[:half]], [again[0], *shown[half:]]]
    captions = [["the photograph", *texts[:half]], ["f_ISP of RAW 1", *texts[half:]]]
    draw_grid(rows, captions=captions, cell_width=260, title="One photograph, twelve RAWs (gamma 2.2)", path=args.out)
    print(f"{args.out} is written")


if __name__ == "__main__":
    main()
