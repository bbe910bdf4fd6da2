"""What training costs beside BasicSR's own: a step, the start, and waiting for data.

``step``: steps of a `SemiSupervisedModel` (with and without noise), of a `SupervisedModel` and of BasicSR's own
``SRModel`` in turn, on the same batches: same network, same weights at the start, mean squared error, Adam. A step is
all that training does with a batch it has been given: learning rate, `feed_data`, `optimize_parameters`. Ratios are of
steps beside each other, so that whatever else the machine does falls on both.

``startup``: seconds from starting the process to the log line of the first iteration, of ``basicsr train`` and of
BasicSR's own pipeline on the same option file (``SRModel``, eight small images), in turn, on one core.

``wait``: share of an iteration spent waiting for data, for an option file of semi-supervised training, and what the
loader delivers when nothing else runs. Without folders the pairs are photographs that ship with dependencies, in the
sizes of LOLv1 and of a stored build.

    python benchmarks/train_step.py step --networks PQDynamicISP Retinexformer --batch 4 --real 1 --size 64 --repeats 30
    python benchmarks/train_step.py startup --repeats 7
    python benchmarks/train_step.py wait --workers 2 --iterations 3
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
import yaml
from machine import describe, load_average

from semiisp_plugin.io.image_io import to_uint8, to_uint16, write_image
from semiisp_plugin.options import Source, complete, load_options
from semiisp_plugin.report.tables import Table
from semiisp_plugin.simulation.photographs import load_photographs
from semiisp_plugin.toolbox import build_model

NETWORKS: dict[str, dict[str, Any]] = {
    "SRVGGNetCompact": {"type": "SRVGGNetCompact", "num_feat": 16, "num_conv": 4, "upscale": 1},
    "SepLUT": {"type": "SepLUT", "n_vertices_3d": 9, "n_vertices_1d": 9, "thumbnail": 128},
    "PQDynamicISP": {"type": "PQDynamicISP", "inverse_tone_mapping": True},
    "Retinexformer": {"type": "Retinexformer", "n_feat": 40, "stage": 1, "num_blocks": [1, 2, 2]},
}
BASICSR = "SRModel (BasicSR)"
SYSTEMS = (BASICSR, "supervised", "semi-supervised", "semi-supervised, noise")
WARM_UP = 3

# What BasicSR 1.4.2 needs to run on the torchvision of today, and nothing else.
BASICSR_PROGRAM = """
import sys, types
from torchvision.transforms.functional import rgb_to_grayscale
module = types.ModuleType("torchvision.transforms.functional_tensor")
module.rgb_to_grayscale = rgb_to_grayscale
sys.modules[module.__name__] = module
from basicsr.train import train_pipeline
train_pipeline(sys.argv.pop(1))
"""


# --- step ----------------------------------------------------------------------------------------------------


def make_model(system: str, network: dict[str, Any], args: argparse.Namespace, root: str) -> Any:
    """A model as training builds it; no image is read."""
    train = {
        "total_iter": 10 * (args.repeats + WARM_UP),
        "ema_decay": args.ema,
        "optim_g": {"type": "Adam", "lr": 1e-4},
        "scheduler": {"type": "MultiStepLR", "milestones": [10**6]},
        "pixel_opt": {"type": "MSELoss", "loss_weight": 1.0, "reduction": "mean"},
    }
    torch.manual_seed(0)
    if system == BASICSR:
        on_gpu = args.num_gpu != "0" and torch.cuda.is_available()
        options = {
            "name": "benchmark",
            "model_type": "SRModel",
            "is_train": True,
            "num_gpu": int(on_gpu),
            "dist": False,
            "rank": 0,
            "world_size": 1,
            "path": {},
            "network_g": dict(network),
            "train": train,
        }
        return build_model(options)
    semi = system != "supervised"
    data = {"dataroot_gt": "-", "dataroot_lq": "-", "io_backend": {"type": "disk"}}
    pseudo = {"real_per_batch": args.real, "pseudo_per_batch": args.batch - args.real, "pseudo": dict(data)}
    train["pixel_opt"] = {"type": "MSELoss"}
    if semi:
        train["filter"] = {"beta": 1.0}
    if system.endswith("noise"):
        train["noise"] = {}
    options = {
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
        "network_g": dict(network),
        "train": train,
    }
    filled = complete(options, Source("benchmark"), root_path=root, is_train=True)
    return build_model(filled | {"dist": False, "rank": 0, "world_size": 1})


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


def time_step(model: Any, batch: dict[str, Any], iteration: int) -> tuple[float, float]:
    """Seconds of one step: on the clock, and of the processor (of all threads)."""
    batch = {**batch, "lq": batch["lq"].clone(), "gt": batch["gt"].clone()}
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start, used = time.perf_counter(), time.process_time()
    model.update_learning_rate(iteration)
    model.feed_data(batch)
    model.optimize_parameters(iteration)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - used


def measure_steps(network: dict[str, Any], args: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every step, by system; entries of one place belong to the same batch."""
    with tempfile.TemporaryDirectory() as root:
        models = {system: make_model(system, network, args, root) for system in args.systems}
    times: dict[str, list[tuple[float, float]]] = {system: [] for system in models}
    for number in range(args.repeats + WARM_UP):
        batch = make_batch(args, number)
        # Each system comes first, second, ... equally often, and after each other one.
        turn = number % len(models)
        order = list(args.systems[turn:] + args.systems[:turn])
        for system in order if number // len(models) % 2 == 0 else reversed(order):
            seconds = time_step(models[system], batch, number + 1)
            if number >= WARM_UP:
                times[system].append(seconds)
        for model in models.values():
            model.get_current_log()  # as at print_freq; empties the window
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median(values), third


def ratio_text(times: Sequence[tuple[float, float]], reference: Sequence[tuple[float, float]], column: int) -> str:
    """``median (first to third quartile)`` of the ratios of pairs; column 0 is the clock, 1 the processor."""
    low, middle, high = quartiles([a[column] / b[column] for a, b in zip(times, reference, strict=True)])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def step_rows(name: str, times: dict[str, list[tuple[float, float]]], on_gpu: bool) -> list[dict[str, str]]:
    rows = []
    for system, seconds in times.items():
        row = {"network": name, "step": system, "ms": f"{1000 * median(s for s, _ in seconds):.2f}"}
        for reference, title in ((BASICSR, "SRModel"), ("supervised", "supervised")):
            if reference in times and system != reference:
                row[f"to {title}, clock"] = ratio_text(seconds, times[reference], 0)
                if not on_gpu:
                    row[f"to {title}, processor"] = ratio_text(seconds, times[reference], 1)
        rows.append(row)
    return rows


def run_step(args: argparse.Namespace) -> None:
    print(f"batches of {args.batch} ({args.real} real), {args.size}x{args.size} pixels, {args.repeats} steps each")
    print("ratios are medians (first to third quartile) over steps on the same batch\n")
    on_gpu = args.num_gpu != "0" and torch.cuda.is_available()
    for name in args.networks:
        print(Table.of(step_rows(name, measure_steps(NETWORKS[name], args), on_gpu)).text(), flush=True)


# --- startup -------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, count: int, height: int, width: int, bits: int = 8) -> tuple[str, str]:
    """Dark and normal versions of photographs: folders of inputs and targets."""
    photographs = list(load_photographs().values())
    places = folder / "lq", folder / "gt"
    for place in places:
        place.mkdir(parents=True)
    for number in range(count):
        target = cv2.resize(photographs[number % len(photographs)], (width, height), interpolation=cv2.INTER_AREA)
        dark = (target / 255 * 0.5) ** 2.2
        write_image(places[0] / f"{number:03d}.png", to_uint16(dark) if bits == 16 else to_uint8(dark))
        write_image(places[1] / f"{number:03d}.png", target)
    return str(places[0]), str(places[1])


def startup_options(folder: Path, workers: int) -> Path:
    """An option file of BasicSR's, for both pipelines."""
    lq, gt = write_pairs(folder / "data", 8, 64, 64)
    options = {
        "name": "startup",
        "model_type": "SRModel",
        "scale": 1,
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "train": {
                "name": "pairs",
                "type": "PairedImageDataset",
                "dataroot_lq": lq,
                "dataroot_gt": gt,
                "io_backend": {"type": "disk"},
                "gt_size": 32,
                "use_hflip": True,
                "use_rot": True,
                "num_worker_per_gpu": workers,
                "batch_size_per_gpu": 2,
            }
        },
        "network_g": {"type": "SRVGGNetCompact", "num_feat": 4, "num_conv": 1, "upscale": 1},
        "path": {},
        "train": {
            "total_iter": 10**6,
            "optim_g": {"type": "Adam", "lr": 1e-4},
            "scheduler": {"type": "MultiStepLR", "milestones": [10**6]},
            "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 10**6, "use_tb_logger": True},
    }
    path = folder / "startup.yml"
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    return path


def seconds_to_first_iteration(command: Sequence[str], folder: Path, core: int | None) -> tuple[float, float]:
    """Start a training process, wait for the log line of iteration 1, end the process.

    Seconds on the clock, and of the processor: the latter hardly depend on what else the machine does.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    prefix = ["taskset", "-c", str(core)] if core is not None else []
    used = cpu_seconds_of_children()
    start = time.perf_counter()
    process = subprocess.Popen(
        [*prefix, *command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    told, seconds = [], None
    try:
        for line in process.stdout or ():
            if "iter:       1," in line:
                seconds = time.perf_counter() - start
                break
            told.append(line)
    finally:
        process.kill()
        process.wait()
    if seconds is None:
        raise RuntimeError("".join(["No iteration was logged:\n", *told[-20:]]))
    return seconds, cpu_seconds_of_children() - used


def cpu_seconds_of_children() -> float:
    """Of the ended ones."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_startup(args: argparse.Namespace) -> None:
    script = Path(sys.executable).with_name("basicsr")
    ours = [str(script)] if script.is_file() else [sys.executable, "-m", "semiisp_plugin.cli"]
    core = min(os.sched_getaffinity(0)) if shutil.which("taskset") and hasattr(os, "sched_getaffinity") else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = str(startup_options(folder, args.workers))
        commands = {
            "BasicSR's own pipeline": [sys.executable, "-c", BASICSR_PROGRAM, str(folder), "-opt", options],
            "basicsr train": [*ours, "train", "-opt", options],
        }
        times: dict[str, list[tuple[float, float]]] = {system: [] for system in commands}
        for number in range(args.repeats + 1):
            for system in list(commands) if number % 2 else reversed(list(commands)):
                shutil.rmtree(folder / "experiments", ignore_errors=True)
                shutil.rmtree(folder / "tb_logger", ignore_errors=True)
                seconds = seconds_to_first_iteration(commands[system], folder, core)
                if number:  # the first round fills the disk cache and writes byte code
                    times[system].append(seconds)
    reference, system = times
    rows = []
    for name, measured in times.items():
        row = {"command": name}
        for column, title in enumerate(("clock", "processor")):
            of_one = [m[column] for m in measured]
            row[f"{title} s"] = f"{median(of_one):.2f} ({min(of_one):.2f} to {max(of_one):.2f})"
            if name == system:
                row[f"ratio, {title}"] = ratio_text(measured, times[reference], column)
        rows.append(row)
    print(f"{args.repeats} starts each, in turn; {'one core' if core is not None else 'all cores'}")
    print("median (least to most); ratio: median (first to third quartile)\n")
    print(Table.of(rows).text())


# --- wait ----------------------------------------------------------------------------------------------------


@contextmanager
def data_folders(args: argparse.Namespace) -> Iterator[tuple[list[str], str]]:
    """Real inputs and targets, pseudo inputs and targets; and what they are, in words."""
    given = [args.real_lq, args.real_gt, args.pseudo_lq, args.pseudo_gt]
    if all(given):
        yield given, "given folders"
        return
    if any(given):
        raise SystemExit("Give all of --real_lq, --real_gt, --pseudo_lq, --pseudo_gt, or none.")
    with tempfile.TemporaryDirectory() as name:
        real = write_pairs(Path(name, "real"), 16, 400, 600)
        pseudo = write_pairs(Path(name, "pseudo"), 32, 480, 640, bits=16)
        yield [*real, *pseudo], "16 real pairs of 600x400 and 32 pseudo pairs of 640x480, PNG, pseudo inputs of 16 bits"


def wait_options(args: argparse.Namespace, folders: Sequence[str]) -> dict[str, Any]:
    """The option file with other folders, and no validation."""
    options = yaml.safe_load(Path(args.opt).read_text(encoding="utf-8"))
    train = options["datasets"] = {"train": options["datasets"]["train"]}
    train = train["train"]
    for section, (lq, gt) in ((train, folders[:2]), (train["pseudo"], folders[2:])):
        backend = "lmdb" if gt.rstrip("/").endswith(".lmdb") else "disk"
        section.update(dataroot_lq=lq, dataroot_gt=gt, io_backend={"type": backend})
    train["num_worker_per_gpu"] = args.workers
    train["real_per_batch"] = args.real or train["real_per_batch"]
    train["pseudo_per_batch"] = args.pseudo or train["pseudo_per_batch"]
    train["gt_size"] = args.size or train["gt_size"]
    options["num_gpu"] = args.num_gpu if args.num_gpu == "auto" else int(args.num_gpu)
    options["val"] = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(args.opt).name)
        path.write_text(yaml.safe_dump(options, sort_keys=False))
        filled = load_options(path, root_path=folder, is_train=True)
    return filled | {"dist": False, "rank": 0, "world_size": 1}


def run_wait(args: argparse.Namespace) -> None:
    # Here, so that the other measurements work with a plugin of another age.
    from semiisp_plugin.training.run import Run
    from semiisp_plugin.training.stall import naming_files

    with data_folders(args) as (folders, about):
        run = Run(wait_options(args, folders))
        model, on_gpu = run.model, run.model.device.type == "cuda"
        settings = run.opt["datasets"]["train"]
        batch = f"{settings['real_per_batch']} real and {settings['pseudo_per_batch']} pseudo pairs"
        print(f"{args.opt}: {type(run.model.net_g).__name__}, batches of {batch}, crops of {settings['gt_size']}")
        print(f"{about}; {args.workers} workers\n")
        batches = run.data.batches()
        rows = []
        with naming_files(run.data.watched):
            next(batches)  # workers start
            ahead = run.data.loader.num_workers * (run.data.loader.prefetch_factor or 0)
            for _ in range(ahead):
                next(batches)
            start = time.perf_counter()
            for _ in range(args.alone):
                next(batches)
            alone = (time.perf_counter() - start) / args.alone
            rows.append({"what": f"loader alone, {args.alone} batches", "s a batch": f"{alone:.4f}"})
            waited, computed = [], []
            for iteration in range(1, args.iterations + 2):
                start = time.perf_counter()
                _, data = next(batches)
                got = time.perf_counter()
                model.update_learning_rate(iteration)
                model.feed_data(data)
                model.optimize_parameters(iteration)
                if on_gpu:
                    torch.cuda.synchronize()
                if iteration > 1:  # the first one chooses and compiles kernels
                    waited.append(got - start)
                    computed.append(time.perf_counter() - got)
        whole = sum(waited) + sum(computed)
        rows.append(
            {
                "what": f"training, {args.iterations} iterations",
                "s a batch": f"{whole / args.iterations:.4f}",
                "waiting for data": f"{sum(waited) / whole:.2%}",
            }
        )
        print(Table.of(rows).text())
        print(f"Without waiting, these workers feed steps of {alone:.3f} s and longer (as long as they have cores).")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    step = commands.add_parser("step", help="steps against those of BasicSR's SRModel")
    step.add_argument("--networks", nargs="+", choices=NETWORKS, default=["SRVGGNetCompact", "SepLUT", "PQDynamicISP"])
    step.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="default: all")
    step.add_argument("--size", type=int, default=128, help="side of the crops, pixels (default: %(default)s)")
    step.add_argument("--batch", type=int, default=20, help="samples a batch, in every system (default: %(default)s)")
    step.add_argument("--real", type=int, default=4, help="real ones among them (default: %(default)s)")
    step.add_argument("--repeats", type=int, default=30, help="steps of each system (default: %(default)s)")
    step.add_argument("--ema", type=float, default=0.0, help="ema_decay (default: %(default)s)")
    startup = commands.add_parser("startup", help="seconds to the first iteration")
    startup.add_argument("--repeats", type=int, default=7, help="starts of each command (default: %(default)s)")
    startup.add_argument("--workers", type=int, default=0, help="num_worker_per_gpu (default: %(default)s)")
    wait = commands.add_parser("wait", help="share of an iteration spent waiting for data")
    wait.add_argument("--opt", default="options/semiie_lolv1.yml", help="default: %(default)s")
    for name, text in (("real", "real pairs"), ("pseudo", "pseudo pairs")):
        wait.add_argument(f"--{name}_lq", metavar="DIR", help=f"inputs of the {text}: a folder or an LMDB")
        wait.add_argument(f"--{name}_gt", metavar="DIR", help=f"targets of the {text}")
        wait.add_argument(f"--{name}", type=int, help=f"{text} a batch (default: the option file's)")
    wait.add_argument("--size", type=int, help="side of the crops (default: the option file's)")
    wait.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    wait.add_argument("--alone", type=int, default=20, help="batches of the loader alone (default: %(default)s)")
    wait.add_argument("--iterations", type=int, default=3, help="default: %(default)s")
    for command in (step, wait):
        command.add_argument("--num_gpu", choices=["0", "1", "auto"], default="0", help="default: %(default)s, the CPU")
    args = parser.parse_args(argv)
    if args.command == "step" and (not 0 < args.real < args.batch or args.repeats < 1):
        parser.error("--real must lie between 0 and --batch, and --repeats be positive")
    torch.set_num_threads(args.threads)
    logging.getLogger("basicsr").addHandler(logging.NullHandler())
    logging.getLogger("basicsr").setLevel(logging.ERROR)
    print(f"{describe()}; torch threads: {args.threads}")
    {"step": run_step, "startup": run_startup, "wait": run_wait}[args.command](args)
    print(f"Load average at the end: {load_average()}")


if __name__ == "__main__":
    main()
