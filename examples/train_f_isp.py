"""Train f_ISP, an ISP of invertible functions that an encoder controls, on pairs, in plain PyTorch (phase 1).

    python examples/train_f_isp.py                              simulated RAWs of photographs that packages ship
    python examples/train_f_isp.py --pairs DIR --steps 4000     DIR/{input,target}, or DIR/{low,high}: your own

It writes f_isp.pth: the network, and the parameter sets that it has used last. They are what makes one photograph many
RAWs: see invert_photograph.py, semi_supervised_loop.py, and ``basicsr bank f_isp.pth``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from semiisp_plugin import ParameterBank, PQDynamicISP, save_f_isp
from semiisp_plugin.data.pairs import find_pair_folders, match_pairs, read_pair
from semiisp_plugin.io.image_io import to_float, to_tensor
from semiisp_plugin.simulation.photographs import PHOTOGRAPHS, load_photographs

Pairs = list[tuple[Tensor, Tensor]]
OPTIONS = {"thumbnail": 96, "dropout": 0.1}
CROP = 192


def read_pairs(folder: str) -> Pairs:
    """Input and target, ``(3, H, W)`` in [0, 1], of each pair of a folder."""
    pairs = [read_pair(pair) for pair in match_pairs(*find_pair_folders(folder))]
    return [(to_tensor(to_float(lq)).float(), to_tensor(to_float(gt)).float()) for lq, gt in pairs]


def photographs(names: Sequence[str] = PHOTOGRAPHS) -> list[Tensor]:
    """Photographs ``(3, H, W)`` in [0, 1] that ship with the plugin."""
    return [to_tensor(to_float(photo)).float() for photo in load_photographs(names).values()]


def simulated_pairs(targets: list[Tensor], shots: int = 3, seed: int = 0) -> Pairs:
    """RAWs of photographs: linear, each of several exposures under lights of several colours, a little noisy."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for target in [target for target in targets for _ in range(shots)]:
        exposure = 0.3 + 0.4 * torch.rand(1, generator=generator)
        light = 1 + 0.3 * (torch.rand(3, generator=generator) - 0.5)
        raw = (exposure * light)[:, None, None] * target**2.2
        raw = raw + 0.002 * torch.randn(raw.shape, generator=generator)
        pairs.append((raw.clamp(0, 1), target))
    return pairs


def crops(pairs: Pairs, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random crops of random pairs, ``(count, 3, size, size)`` each."""
    chosen = []
    for index in torch.randint(len(pairs), (count,), generator=generator).tolist():
        lq, gt = pairs[index]
        top, left = (int(torch.randint(1 + side - size, (1,), generator=generator)) for side in lq.shape[-2:])
        chosen.append([image[:, top : top + size, left : left + size] for image in (lq, gt)])
    lqs, gts = zip(*chosen, strict=True)
    return torch.stack(lqs), torch.stack(gts)


def train(pairs: Pairs, grid: tuple[int, int], steps: int, seed: int = 0) -> tuple[PQDynamicISP, ParameterBank]:
    """Fit an f_ISP with ``grid`` regions that have parameters of their own; keep the last 100 parameter sets."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = PQDynamicISP(grid=grid, **OPTIONS)
    bank = ParameterBank(network.spec, capacity=100, grid=grid)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps, pct_start=0.1)
    for step in range(1, steps + 1):
        lq, gt = crops(pairs, 4, CROP, generator)
        sets = network.prepare(lq)  # eq. 1: what the encoder sees in the input
        output = network.apply_prepared(lq, sets, (0, 0), (CROP, CROP))  # eq. 2
        loss = torch.nn.functional.mse_loss(output, gt)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bank.append(sets.detach())
        if step % max(1, steps // 5) == 0:
            print(f"f_ISP, grid {grid}, step {step}: {-10 * loss.log10():.2f} dB")
    return network.eval(), bank


def main() -> None:
    """Train both networks of phase 1 and write the file that phase 2 begins with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="DIR")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", default="f_isp.pth", metavar="FILE")
    args = parser.parse_args()
    pairs = read_pairs(args.pairs) if args.pairs else simulated_pairs(photographs())
    # Global parameters for making RAWs (with local ones regions would show), local ones for the better picture.
    _, global_bank = train(pairs, (1, 1), args.steps)
    network, local_bank = train(pairs, (4, 4), args.steps)
    options = {"type": "PQDynamicISP", "grid": [4, 4], **OPTIONS}
    save_f_isp(args.out, options, network.state_dict(), {"global": global_bank, "local": local_bank}, len(pairs))
    print(f"{args.out}: f_ISP of {len(pairs)} pairs, {len(global_bank)} parameter sets of each kind")


if __name__ == "__main__":
    main()
