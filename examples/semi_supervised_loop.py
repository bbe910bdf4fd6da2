"""Semi-supervised training of any network in a plain PyTorch loop, without BasicSR (phases 1 and 2 of the method).

    python examples/semi_supervised_loop.py                                 photographs that packages ship
    python examples/semi_supervised_loop.py --pairs DIR --photos DIR        your own

A few pairs teach f_ISP how RAW and picture belong together. Its inverse makes pseudo pairs of photographs that have no
RAW. The network learns from both; the filter drops pseudo pairs that fit it worse than the real ones do.

It shows how the parts go together, not what they bring: with two scenes, a toy network and a minute of training the two
results differ by luck. ``basicsr demo`` and ``basicsr benchmark`` compare with care.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from train_f_isp import CROP, Pairs, crops, photographs, read_pairs, simulated_pairs
from train_f_isp import train as train_f_isp

from semiisp_plugin import (
    BankInverse,
    MixedBatchSampler,
    PseudoFilter,
    PseudoPairGenerator,
    per_sample,
    semi_supervised_loss,
)
from semiisp_plugin.io.image_io import list_images, read_image, to_float, to_tensor

PER_PHOTOGRAPH = 4


class AnyNetwork(nn.Module):
    """The target network; nothing in it knows of the method."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        layers = [nn.Conv2d(6, width, 1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 1))

    def forward(self, image: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1]; colours and the picture's mean colour to a correction of gamma 2.2."""
        mean = image.mean((2, 3), keepdim=True).expand_as(image)
        return image.clamp_min(1e-4) ** (1 / 2.2) + self.layers(torch.cat((image, mean), dim=1))


def make_pseudo_pairs(real: Pairs, photos: list[Tensor], steps: int, seed: int) -> Pairs:
    """Phase 1, then some pseudo pairs of each photograph."""
    _, bank = train_f_isp(real, (1, 1), steps, seed)
    network, _ = train_f_isp(real, (4, 4), steps, seed)
    generator = PseudoPairGenerator(network, BankInverse(network.spec, bank))
    draws = torch.Generator().manual_seed(seed)
    pairs = []
    for photo in [photo for photo in photos for _ in range(PER_PHOTOGRAPH)]:
        made = generator.generate((photo[None] * 255).round().to(torch.uint8), draws)
        pairs.append((made.input[0], made.target[0].float() / 255))
    return pairs


def train(real: Pairs, pseudo: Pairs, pseudo_per_batch: int, steps: int, seed: int) -> nn.Module:
    """Phase 2: batches of 2 real and ``pseudo_per_batch`` pseudo samples; without pseudo samples, supervised."""
    torch.manual_seed(seed)
    network = AnyNetwork()
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    sampler = MixedBatchSampler(len(real), len(pseudo), 2, pseudo_per_batch, seed=seed, num_batches=steps)
    pseudo_filter = PseudoFilter(beta=1.2, warmup_iter=steps // 10)
    for step, samples in enumerate(sampler, 1):
        # Each sample brings a seed of its own, so that batches do not depend on who reads them, and when.
        chosen = [
            crops([(real, pseudo)[s.source][s.index]], 1, CROP // 2, torch.Generator().manual_seed(s.seed))
            for s in samples
        ]
        lq, gt = (torch.cat(images) for images in zip(*chosen, strict=True))
        is_pseudo = torch.tensor([s.source == 1 for s in samples])

        losses = per_sample(nn.functional.mse_loss(network(lq), gt, reduction="none"))  # (N,)
        result = pseudo_filter(losses.detach(), is_pseudo)  # eqs. 10-12
        loss = semi_supervised_loss(losses, result.weights)  # eq. 13
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            kept = f", {result.kept_ratio:.0%} of the pseudo samples kept" if pseudo_per_batch else ""
            print(f"step {step}: {-10 * loss.detach().log10():.2f} dB{kept}")
    return network.eval()


@torch.no_grad()
def psnr(network: nn.Module, pairs: Pairs) -> float:
    """Mean PSNR, dB."""
    errors = [nn.functional.mse_loss(network(lq[None]).clamp(0, 1), gt[None]) for lq, gt in pairs]
    return float(-10 * torch.stack(errors).log10().mean())


def main() -> None:
    """Compare what the same network learns with and without pseudo pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", metavar="DIR")
    parser.add_argument("--photos", metavar="DIR")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if bool(args.pairs) != bool(args.photos):
        parser.error("give --pairs and --photos together, or neither")
    if args.pairs:
        pairs = read_pairs(args.pairs)
        photos = [to_tensor(to_float(read_image(path))).float() for path in list_images(args.photos)]
    else:
        pairs = simulated_pairs(photographs(["great_wall", "spices", "kitten_lawn", "table_mountain"]))
        photos = photographs(["mountain_lake", "onion_domes", "floating_market", "opera_house"])
    half = len(pairs) // 2
    real, test = pairs[:half], pairs[half:]
    pseudo = make_pseudo_pairs(real, photos, args.steps, args.seed)
    supervised = psnr(train(real, pseudo, 0, args.steps, args.seed), test)
    both = psnr(train(real, pseudo, 6, args.steps, args.seed), test)
    print(f"{len(test)} test pairs: supervised {supervised:.2f} dB, semi-supervised {both:.2f} dB")


if __name__ == "__main__":
    main()
