"""What the pseudo-data filter costs: semi-supervised against supervised training steps.

Both train the same network on the same images, as many a batch, and the steps alternate, so that whatever else the
machine does falls on both. A step is all that training does with a batch it has been given: learning rate, `feed_data`,
`optimize_parameters` (noise, forward, losses, filter, backward, update). Compared is the ratio of a semi-supervised
step to the supervised step beside it.

    python benchmarks/filter_overhead.py --networks SRVGGNetCompact SepLUT --size 128 --batch 20 --repeats 30
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from machine import describe, load_average

from semiisp_plugin.options import Source, complete
from semiisp_plugin.report.tables import text_table
from semiisp_plugin.toolbox import build_model

NETWORKS: dict[str, dict[str, Any]] = {
    "SRVGGNetCompact": {"type": "SRVGGNetCompact", "num_feat": 16, "num_conv": 4, "upscale": 1},
    "SepLUT": {"type": "SepLUT", "n_vertices_3d": 9, "n_vertices_1d": 9, "thumbnail": 128},
    "Retinexformer": {"type": "Retinexformer", "n_feat": 16, "stage": 1, "num_blocks": [1, 1, 1]},
}
SYSTEMS = ("supervised", "semi-supervised", "semi-supervised, noise")
WARM_UP = 2


def make_model(system: str, network: dict[str, Any], args: argparse.Namespace, root: str) -> Any:
    """A model as training builds it; no image is read."""
    semi = system != "supervised"
    data = {"dataroot_gt": "-", "dataroot_lq": "-", "io_backend": {"type": "disk"}}
    pseudo = {"real_per_batch": args.real, "pseudo_per_batch": args.batch - args.real, "pseudo": dict(data)}
    options: dict[str, Any] = {
        "name": "benchmark",
        "model_type": "SemiSupervisedModel" if semi else "SupervisedModel",
        "num_gpu": args.num_gpu if args.num_gpu == "auto" else int(args.num_gpu),
        "datasets": {
            "train": {
                **data,
                "name": "benchmark",
                "type": "SemiSupervisedDataset" if semi else "PairedRestorationDataset",
                "gt_size": args.size,
                **(pseudo if semi else {"batch_size_per_gpu": args.batch}),
            }
        },
        "network_g": network,
        "train": {
            "total_iter": 10 * (args.repeats + WARM_UP),
            "optim_g": {"type": "AdamW", "lr": 1e-4},
            "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 0.001},
            "pixel_opt": {"type": "MSELoss"},
        },
    }
    if semi:
        options["train"]["filter"] = {"beta": 1.0}
    if system.endswith("noise"):
        options["train"]["noise"] = {}
    torch.manual_seed(0)
    return build_model(
        complete(options, Source("benchmark"), root_path=root, is_train=True) | {"dist": False, "rank": 0}
    )


def make_batch(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """A batch as the data loader gives it."""
    generator = torch.Generator().manual_seed(number)
    gt = torch.rand(args.batch, 3, args.size, args.size, generator=generator)
    return {
        "lq": gt**2.2,
        "gt": gt,
        "is_pseudo": torch.arange(args.batch) >= args.real,
        "key": [str(i) for i in range(args.batch)],
    }


def time_step(model: Any, batch: dict[str, Any], iteration: int) -> float:
    """Seconds of one step."""
    batch = {**batch, "lq": batch["lq"].clone()}  # noise is added in place
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(network: dict[str, Any], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every step, by system; entries of one place belong to the same batch."""
    with tempfile.TemporaryDirectory() as root:
        models = {system: make_model(system, network, args, root) for system in SYSTEMS}
    times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    for number in range(args.repeats + WARM_UP):
        batch = make_batch(args, number)
        # Each system comes first, second and third equally often.
        turn = number % len(SYSTEMS)
        for system in SYSTEMS[turn:] + SYSTEMS[:turn]:
            seconds = time_step(models[system], batch, number + 1)
            if number >= WARM_UP:
                times[system].append(seconds)
        for model in models.values():
            model.get_current_log()  # as at print_freq; empties the window
    return times


def rows_of(name: str, times: dict[str, list[float]]) -> list[dict[str, str]]:
    rows = []
    for system in SYSTEMS:
        ratios = [a / b for a, b in zip(times[system], times["supervised"], strict=True)]
        milliseconds = [1000 * t for t in times[system]]
        rows.append(
            {
                "network": name,
                "step": system,
                "median ms": f"{median(milliseconds):.1f}",
                "min ms": f"{min(milliseconds):.1f}",
                "max ms": f"{max(milliseconds):.1f}",
                "median ratio": "" if system == "supervised" else f"{median(ratios):.3f}",
                "min ratio": "" if system == "supervised" else f"{min(ratios):.3f}",
                "max ratio": "" if system == "supervised" else f"{max(ratios):.3f}",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SRVGGNetCompact", "SepLUT"])
    parser.add_argument("--size", type=int, default=128, help="side of the crops, pixels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=20, help="samples a batch, in every system (default: %(default)s)")
    parser.add_argument("--real", type=int, default=4, help="real ones among them (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=30, help="steps of each system (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: %(default)s)")
    parser.add_argument("--num_gpu", choices=["0", "1", "auto"], default="0", help="default: %(default)s, the CPU")
    args = parser.parse_args(argv)
    if not 0 < args.real < args.batch or args.repeats < 1:
        parser.error("--real must lie between 0 and --batch, and --repeats be positive")
    torch.set_num_threads(args.threads)
    logging.getLogger("basicsr").addHandler(logging.NullHandler())
    logging.getLogger("basicsr").setLevel(logging.WARNING)
    print(f"{describe()}; torch threads: {args.threads}")
    print(f"batches of {args.batch} ({args.real} real), {args.size}x{args.size} pixels, {args.repeats} steps each\n")
    rows = [row for name in args.networks for row in rows_of(name, measure(NETWORKS[name], args))]
    print(text_table(rows))
    print(f"\nRatios are to the supervised step on the same batch. Load average at the end: {load_average()}")


if __name__ == "__main__":
    main()
