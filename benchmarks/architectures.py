"""What our networks cost beside the public implementations of the same ones: forward pass, training step, memory.

The public code is not part of this repository: name a clone of each (``git clone`` of megvii-research/NAFNet,
ImCharlesY/SepLUT, caiyuanhao1998/Retinexformer, zhangyi-3/KBNet). Only the files of the network are imported from it,
its ``basicsr`` or ``mmedit`` being replaced for that moment; Retinexformer's imports the package ``einops``. A network
whose clone is not given, or whose public code this does not run, is measured alone. SepLUT's public forward pass in
tests needs its compiled extension ``seplut_ext``: where that cannot be imported, its forward pass in training takes its
place.

Both networks have the same weights and get the same images, in turn; the largest difference of their outputs is shown.
Ratios are of passes beside each other, so that whatever else the machine does falls on both. On a CPU they are of
processor time. A training step here is a forward and a backward pass; its memory is the most that torch had allocated
during the step, beside weights, their gradients and the images. "NAFNet-s local" is tested with local means (TLC); in
training ours takes means of the whole crop, while the public class keeps its local ones.

    python benchmarks/architectures.py --nafnet ../NAFNet --seplut ../SepLUT --retinexformer ../Retinexformer \\
        --kbnet ../KBNet --repeats 20
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from machine import describe, load_average
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from semiisp_plugin.report.tables import Table
from semiisp_plugin.toolbox import build_network

MIB = 2**20
WARM_UP = 2
SIDES = ("ours", "public")
# Weights as after some training: NAFNet's blocks, for one, start as the identity, which would hide differences.
NOISE = 0.02

Forward = Callable[[nn.Module, Tensor], Tensor]


def call(net: nn.Module, image: Tensor) -> Tensor:
    out: Tensor = net(image)
    return out


def likelihood(net: nn.Module, image: Tensor) -> Tensor:
    out: Tensor = net(image, image)
    return out


# --- public implementations ----------------------------------------------------------------------------------


def module(name: str, path: Path | None = None, **content: Any) -> types.ModuleType:
    """Put a module of that name in place; with a folder it is a package whose other modules are found there."""
    made = types.ModuleType(name)
    if path is not None:
        made.__path__ = [str(path)]
    made.__dict__.update(content)
    sys.modules[name] = made
    return made


@contextlib.contextmanager
def without(*packages: str) -> Iterator[None]:
    """Hide packages, and forget what is imported under their names meanwhile."""

    def concerned() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in packages]

    hidden = {name: sys.modules.pop(name) for name in concerned()}
    try:
        yield
    finally:
        for name in concerned():
            del sys.modules[name]
        sys.modules.update(hidden)


def from_basicsr(clone: Path, file: str, name: str) -> type[nn.Module]:
    """A class of a file in the ``basicsr/models/archs`` of a clone."""
    folder = clone / "basicsr" / "models" / "archs"
    if not (folder / f"{file}.py").is_file():
        raise SystemExit(f"{clone} has no {folder.relative_to(clone) / file}.py: is it a clone of that repository?")
    with without("basicsr"):
        module("basicsr", clone)
        module("basicsr.utils", clone, get_root_logger=None)
        module("basicsr.models", clone)
        module("basicsr.models.archs", folder)
        if file == "RetinexFormer_arch" and importlib.util.find_spec("einops") is None:
            raise SystemExit("Retinexformer's public code needs the package einops: pip install einops.")
        found: type[nn.Module] = getattr(importlib.import_module(f"basicsr.models.archs.{file}"), name)
    return found


def public_seplut(clone: Path) -> type[nn.Module]:
    class Registry:
        def register_module(self) -> Callable[[type], type]:
            return lambda it: it

    if not (clone / "seplut" / "model.py").is_file():
        raise SystemExit(f"{clone} has no seplut/model.py: is it a clone of that repository?")
    compiled = importlib.util.find_spec("seplut_ext") is not None
    with without("mmcv", "mmedit", "seplut", *([] if compiled else ["seplut_ext"])):
        if not compiled:
            module("seplut_ext", seplut_transform=None)
        module("mmcv", clone)
        module("mmcv.runner", auto_fp16=lambda **_: lambda it: it)
        module("mmcv.utils", get_logger=None)
        module("mmedit", clone)
        module("mmedit.core", psnr=None, ssim=None, tensor2img=None)
        module("mmedit.models", clone)
        module("mmedit.models.base", BaseModel=nn.Module)
        module("mmedit.models.builder", build_loss=lambda _: nn.MSELoss())
        module("mmedit.models.registry", MODELS=Registry())
        module("seplut", clone / "seplut")
        found: type[nn.Module] = importlib.import_module("seplut.model").SepLUT
    return found


def seplut_train(net: nn.Module, image: Tensor) -> Tensor:
    out: Tensor = net.forward_dummy(image)[0]
    return out


def seplut_test(net: nn.Module, image: Tensor) -> Tensor:
    if importlib.util.find_spec("seplut_ext") is None:
        return seplut_train(net, image)
    out: Tensor = net.forward_fast(image)
    return out


@dataclass(frozen=True)
class Subject:
    """A network of ours and the public one.

    Args:
        ours: As in an option file.
        clone: Which option names the clone; None: ours is measured alone.
        load: The public class from the clone.
        public: Its arguments.
        train: How it is called in training.
        test: How it is called in tests.
    """

    ours: dict[str, Any]
    clone: str | None = None
    load: Callable[[Path], type[nn.Module]] | None = None
    public: dict[str, Any] = field(default_factory=dict)
    train: Forward = call
    test: Forward = call


_SIDD = {"enc_blk_nums": [2, 2, 4, 8], "middle_blk_num": 12, "dec_blk_nums": [2, 2, 2, 2]}


def nafnet(name: str) -> Callable[[Path], type[nn.Module]]:
    return lambda clone: from_basicsr(clone, "NAFNet_arch", name)


def seplut(m: int, vertices: int) -> Subject:
    options = {"n_base_feats": m, "n_vertices_3d": vertices, "n_vertices_1d": vertices}
    return Subject({"type": "SepLUT", **options}, "seplut", public_seplut, options, seplut_train, seplut_test)


SUBJECTS: dict[str, Subject] = {
    "NAFNet-s": Subject({"type": "NAFNet", "width": 16, **_SIDD}, "nafnet", nafnet("NAFNet"), {"width": 16, **_SIDD}),
    "NAFNet-width32": Subject(
        {"type": "NAFNet", "width": 32, **_SIDD}, "nafnet", nafnet("NAFNet"), {"width": 32, **_SIDD}
    ),
    "NAFNet-s local": Subject(
        {"type": "NAFNet", "width": 16, **_SIDD, "tlc_train_size": 96},
        "nafnet",
        nafnet("NAFNetLocal"),
        {"width": 16, **_SIDD, "train_size": (1, 3, 96, 96)},
    ),
    "SepLUT": seplut(8, 17),
    "SepLUT-m6-9": seplut(6, 9),
    "SepLUT-33": seplut(8, 33),
    "Retinexformer": Subject(
        {"type": "Retinexformer"},
        "retinexformer",
        lambda clone: from_basicsr(clone, "RetinexFormer_arch", "RetinexFormer"),
        {"n_feat": 40, "stage": 1, "num_blocks": [1, 2, 2]},
    ),
    "KBNet_s": Subject(
        {"type": "KBNet_s", "lightweight": True, "ffn_scale": 1.5},
        "kbnet",
        lambda clone: from_basicsr(clone, "kbnet_s_arch", "KBNet_s"),
        {"lightweight": True, "ffn_scale": 1.5},
    ),
    **{name: Subject({"type": name}) for name in ("ImageAdaptive3DLUT", "AdaInt", "LUTwithBGrid", "CSRNet", "HDRNet")},
    **{name: Subject({"type": name}) for name in ("LLFLUT", "NamedCurves", "PQDynamicISP", "CIDNet", "SNRAware")},
    "LLFormer": Subject({"type": "LLFormer"}),
    "LLFlow": Subject({"type": "LLFlow"}, train=likelihood),
    "SYENet": Subject({"type": "SYENet", "fused": True}),
    "MicroISP": Subject({"type": "MicroISP", "mosaic": True}),
}


def build(subject: Subject, side: str, clone: Path | None) -> nn.Module:
    torch.manual_seed(0)
    if side == "ours":
        net: nn.Module = build_network(dict(subject.ours))
    else:
        if clone is None or subject.load is None:
            raise ValueError("The public network needs its clone.")
        net = subject.load(clone)(**subject.public)
    return net


def forwards(subject: Subject, side: str) -> tuple[Forward, Forward]:
    """In training and in tests."""
    return (call, call) if side == "ours" and subject.load else (subject.train, subject.test)


# --- time ----------------------------------------------------------------------------------------------------


def clock(run: Callable[[], Any], device: str) -> float:
    """Seconds: of the processor, or on the clock for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
    now = time.perf_counter if device == "cuda" else time.process_time
    start = now()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def stepper(net: nn.Module, forward: Forward, image: Tensor, train: bool, keep: bool = False) -> Callable[[], None]:
    """One pass, forward in tests, or forward and backward in training; ``keep`` adds to the gradients there are."""

    def step() -> None:
        if not keep:
            net.zero_grad(set_to_none=True)
        forward(net, image).square().mean().backward()

    def look() -> None:
        with torch.no_grad():
            forward(net, image)

    return step if train else look


def alternate(runs: dict[str, Callable[[], None]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each, by turns; entries of one place belong together."""
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for number in range(repeats + WARM_UP):
        for side in runs if number % 2 else reversed(runs):
            passed = clock(runs[side], device)
            if number >= WARM_UP:
                seconds[side].append(passed)
    return seconds


def ratio(ours: Sequence[float], public: Sequence[float]) -> str:
    """Median (first to third quartile) of what belongs together."""
    ratios = [a / b for a, b in zip(ours, public, strict=True)]
    if len(ratios) < 2:
        return f"{ratios[0]:.3f}"
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


# --- memory --------------------------------------------------------------------------------------------------


def training_memory(net: nn.Module, forward: Forward, image: Tensor) -> int:
    """The most that torch holds during a training step, less what it held before; gradients of weights are there."""
    step = stepper(net.train(), forward, image, train=True, keep=True)
    for _ in range(WARM_UP):
        step()
    if image.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


# --- table ---------------------------------------------------------------------------------------------------


def measure(name: str, args: argparse.Namespace) -> list[dict[str, str]]:
    subject = SUBJECTS[name]
    clone = getattr(args, subject.clone) if subject.clone else None
    sides = SIDES if clone is not None else SIDES[:1]
    shape = (args.batch, 3, *args.size)
    nets = {side: build(subject, side, clone).to(args.device) for side in sides}
    with torch.no_grad():
        for parameter in nets["ours"].parameters():
            parameter.add_(NOISE * torch.randn_like(parameter))
    if clone is not None:
        nets["public"].load_state_dict(nets["ours"].state_dict())
    image = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(args.device)
    row = {"network": name}
    for what, position in (("forward", 1), ("training step", 0)):
        train = what == "training step"
        runs = {
            side: stepper(net.train(train), forwards(subject, side)[position], image, train)
            for side, net in nets.items()
        }
        seconds = alternate(runs, args.device, args.repeats)
        row[f"{what} ms"] = f"{1000 * median(seconds['ours']):.1f}"
        if not train:
            row["forward MP/s"] = f"{image[:, 0].numel() / 1e6 / median(seconds['ours']):.3g}"
        if clone is not None:
            row[f"{what}, ratio"] = ratio(seconds["ours"], seconds["public"])
    memory = {side: training_memory(net, forwards(subject, side)[0], image) / MIB for side, net in nets.items()}
    row["training MiB"] = f"{memory['ours']:.1f}"
    if clone is not None:
        row["training memory, ratio"] = f"{memory['ours'] / memory['public']:.3f}"
        outputs = []
        for side in sides:
            with torch.no_grad():
                outputs.append(forwards(subject, side)[1](nets[side].eval(), image))
        row["difference"] = f"{(outputs[0] - outputs[1]).abs().max().item():.1e}"
    elif subject.clone:
        print(f"{name}: no clone of the public code given (--{subject.clone}); ours is measured alone.", flush=True)
    return [row]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for clone in dict.fromkeys(subject.clone for subject in SUBJECTS.values() if subject.clone):
        parser.add_argument(f"--{clone}", type=Path, metavar="DIR", help="clone of the public repository")
    parser.add_argument("--networks", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 256], help="height, width (default: 256 256)")
    parser.add_argument("--batch", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="passes of each network (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print(f"{describe()}; torch threads: {args.threads}")
    print(f"batches of {args.batch}, {args.size[0]}x{args.size[1]} pixels, {args.repeats} passes each; ratios to the")
    print("public implementation: medians (first to third quartile) over passes beside each other\n")
    for name in args.networks:
        print(Table.of(measure(name, args)).text(), flush=True)
    print(f"Load average at the end: {load_average()}")


if __name__ == "__main__":
    main()
