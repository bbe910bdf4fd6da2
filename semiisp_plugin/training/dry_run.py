"""``basicsr train --dry-run``: builds everything, trains on a few batches, validates on one image, writes nothing.

The weights change in memory alone. What a run would be is told in plain text.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from semiisp_plugin.report.tables import text_table
from semiisp_plugin.training.progress import duration
from semiisp_plugin.training.run import Run

MOST_ITERATIONS = 5
"""Timed iterations; one more, which warms up, comes before them."""

MOST_SECONDS = 3.0
"""After which no further one begins."""

_SHOWN = 2
_SEEN_ON_A_CLOCK = 0.05  # share


@dataclass(frozen=True)
class Entry:
    """What a batch holds under one key.

    Attributes:
        key: The key.
        shape: ``20x3x128x128``; for what is no tensor, how many.
        kind: Type of the values.
        values: Their range, or the first of them.
    """

    key: str
    shape: str
    kind: str
    values: str


@dataclass(frozen=True)
class Network:
    """A network of the model."""

    name: str
    kind: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Validated:
    """One image of a validation set.

    Attributes:
        name: Of the data set.
        images: In the data set.
        entries: What the image is.
        metrics: Of this image.
        seconds: It took, reading included.
        left_out: Why nothing was validated; None if it was.
    """

    name: str
    images: int
    entries: list[Entry]
    metrics: dict[str, float]
    seconds: float
    left_out: str | None = None


@dataclass
class DryRun:
    """What was measured.

    Attributes:
        name: Of the run.
        model: Its class.
        device: It is on.
        start_iter: Iterations done before.
        total: Iterations of the whole run.
        about_data: Sizes, composition of a batch, passes over each source, as the log has it.
        passes: Passes over each source in the whole run.
        networks: The model's networks.
        batch: The first batch.
        output: The network's output for it, if the model shows it.
        first_log: Logged values of the first iteration.
        last_log: Of the iterations after it.
        until_first_batch: Seconds from asking for the first batch to having it.
        first_iteration: Seconds of the first iteration, its batch not included.
        waited: Seconds waited for the batches of each timed iteration.
        computed: Seconds of each timed iteration without that.
        read_ahead: Batches that the loader reads ahead.
        memory: Text.
        validations: One a validation set.
        times_validated: Validations in what is left of the run.
        places: Where a run would write, and what is there.
    """

    name: str
    model: str
    device: str
    start_iter: int
    total: int
    about_data: str
    passes: dict[str, float]
    networks: list[Network]
    batch: list[Entry] = field(default_factory=list)
    output: Entry | None = None
    first_log: dict[str, float] = field(default_factory=dict)
    last_log: dict[str, float] = field(default_factory=dict)
    until_first_batch: float = 0.0
    first_iteration: float = 0.0
    waited: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    read_ahead: int = 0
    memory: str = ""
    validations: list[Validated] = field(default_factory=list)
    times_validated: int = 0
    places: list[str] = field(default_factory=list)


def dry_run(run: Run, out: TextIO | None = None) -> DryRun:
    """Try a run and print what it would be.

    Args:
        run: As training builds it.
        out: Where to print; default: standard output. Processes other than the first print nothing.
    """
    first = run.opt["rank"] == 0
    with _warnings_shown(run, first):
        measured = measure(run)
    if first:
        print(report(measured), file=out or sys.stdout, flush=True)
    return measured


# --- measuring -----------------------------------------------------------------------------------------------


def measure(run: Run, clock: Callable[[], float] = time.perf_counter) -> DryRun:
    """Train on a few batches, validate on one image of each set.

    Args:
        run: As training builds it.
        clock: Seconds.
    """
    opt, model = run.opt, run.model
    total = int(opt["train"]["total_iter"])
    frequency = (opt.get("val") or {}).get("val_freq")
    loader = run.data.loader
    result = DryRun(
        name=opt["name"],
        model=opt["model_type"],
        device=str(model.device),
        start_iter=run.start_iter,
        total=total,
        about_data=run.data.about(),
        passes=dict(run.data.passes(total)),
        networks=networks_of(model),
        read_ahead=loader.num_workers * (loader.prefetch_factor or 0),
        times_validated=total // frequency - run.start_iter // frequency if frequency else 0,
        places=places_of(opt, run.start_iter if run.state else None),
    )
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with run.data.watch:
        _train(run, result, clock)
    result.memory = peak_memory(model.device)
    if opt.get("val"):
        model.opt["logger"]["keep_best"] = None  # it would save
        result.validations = [_validate(run, loader, clock) for loader in run.val_loaders]
    return result


def _train(run: Run, result: DryRun, clock: Callable[[], float]) -> None:
    model, batches = run.model, run.data.batches()
    accumulate = int(run.opt["train"].get("accumulate") or 1)
    warm_up = run.opt["train"].get("warmup_iter") or -1
    for number in range(min(1 + MOST_ITERATIONS, result.total - run.start_iter)):
        iteration = run.start_iter + 1 + number
        waited = 0.0
        begin = clock()
        model.update_learning_rate(iteration, warmup_iter=warm_up)
        for part in range(accumulate):
            before = clock()
            _, batch = next(batches)
            waited += clock() - before
            if number == 0 and part == 0:
                result.batch = [entry(key, value) for key, value in batch.items()]
            with ExitStack() as stack:
                if run.ours:
                    stack.enter_context(model.accumulating(part))
                model.feed_data(batch)
                model.optimize_parameters(iteration)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        computed = clock() - begin - waited
        if number == 0:
            output = getattr(model, "output", None)
            result.output = entry("output", output) if isinstance(output, Tensor) else None
            result.first_log = _logged(model)
            result.until_first_batch, result.first_iteration = waited, computed
        else:
            result.waited.append(waited)
            result.computed.append(computed)
        if sum(result.waited) + sum(result.computed) >= MOST_SECONDS:
            break
    if result.computed:
        result.last_log = _logged(model)


def _logged(model: Any) -> dict[str, float]:
    if not hasattr(model, "get_current_log"):
        return {}
    return {k: float(v) for k, v in model.get_current_log().items()}


class _First(Sampler[int]):
    """The first image alone."""

    def __init__(self) -> None:
        self.indices = [0]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return 1


def _validate(run: Run, loader: Any, clock: Callable[[], float]) -> Validated:
    dataset, model = loader.dataset, run.model
    name = dataset.opt["name"]
    one: DataLoader[Any] = DataLoader(dataset, batch_size=1, sampler=_First(), generator=torch.Generator())
    (item,) = one
    entries = [entry(key, value) for key, value in item.items() if isinstance(value, Tensor)]
    if item["lq"].dim() != 4:
        return Validated(name, len(dataset), entries, {}, 0.0, "clips are validated as a whole only")
    begin = clock()
    # Writes nothing: no TensorBoard, no images.
    model.validation(one, run.start_iter, None, False)
    metrics = getattr(model, "metric_results", {}) if run.opt["val"].get("metrics") else {}
    return Validated(name, len(dataset), entries, {k: float(v) for k, v in metrics.items()}, clock() - begin)


def entry(key: str, value: Any) -> Entry:
    """Describe what a batch holds under a key."""
    if not isinstance(value, Tensor):
        items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        shown = ", ".join(str(i) for i in items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")
        return Entry(key, str(len(items)), type(items[0]).__name__ if items else "-", shown)
    value = value.detach()
    shape, kind = "x".join(map(str, value.shape)) or "scalar", str(value.dtype).removeprefix("torch.")
    if value.numel() == 0:
        return Entry(key, shape, kind, "empty")
    if value.dtype == torch.bool:
        return Entry(key, shape, kind, f"{int(value.sum())} of {value.numel()} true")
    if not value.is_floating_point():
        return Entry(key, shape, kind, f"{int(value.min())} ... {int(value.max())}")
    finite = torch.isfinite(value)
    wrong = int((~finite).sum())
    if wrong:
        return Entry(key, shape, kind, f"{wrong} values are NaN or infinite")
    value = value.float()
    return Entry(key, shape, kind, f"{value.min():.4g} ... {value.max():.4g}, mean {value.mean():.4g}")


def networks_of(model: Any) -> list[Network]:
    """The networks that a model keeps as ``net_<name>``."""
    found = []
    for name, net in sorted(vars(model).items()):
        if name.startswith("net_") and isinstance(net, nn.Module):
            bare = model.get_bare_model(net)
            bare = getattr(bare, "_orig_mod", bare)  # of torch.compile
            sizes = [(p.numel(), p.requires_grad) for p in bare.parameters()]
            found.append(Network(name, type(bare).__name__, sum(n for n, _ in sizes), sum(n for n, g in sizes if g)))
    return found


def peak_memory(device: torch.device) -> str:
    """Most memory taken so far, in words."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return (
            f"{_gib(torch.cuda.max_memory_allocated())} of {_gib(total)} GPU memory in tensors at the most, "
            f"{_gib(torch.cuda.max_memory_reserved())} held by torch"
        )
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return "of processes cannot be asked for on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{_gib(peak)} at the most in this process, its libraries included; loader workers come on top"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def places_of(opt: Mapping[str, Any], resumed_at: int | None) -> list[str]:
    """Where a run would write, and what would happen to what is there."""
    folders = [Path(opt["path"]["experiments_root"])]
    if (opt.get("logger") or {}).get("use_tb_logger") and "debug" not in opt["name"]:
        folders.append(Path(opt["root_path"]) / "tb_logger" / opt["name"])
    lines = []
    for folder in folders:
        if not folder.exists():
            lines.append(f"{folder}: would be made")
        elif resumed_at is not None:
            lines.append(f"{folder}: is there; the run would go on in it from iteration {resumed_at:,d}")
        else:
            lines.append(f"{folder}: is there; it would be renamed to {folder.name}_archived_<time>")
    states = Path(opt["path"].get("training_states") or folders[0] / "training_states")
    numbers = [int(p.stem) for p in states.glob("*.state") if p.stem.isdigit()] if states.is_dir() else []
    if numbers and resumed_at is None:
        lines.append(f"with --auto_resume the run would go on from iteration {max(numbers):,d} instead")
    return lines


@contextmanager
def _warnings_shown(run: Run, first: bool) -> Iterator[None]:
    """Warnings, those of building included, go to the terminal; nothing else is logged."""
    logger = logging.getLogger("basicsr")
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if first else logging.CRITICAL)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    for record in run.held.buffer:
        if record.levelno >= handler.level:
            handler.handle(record)
    before = logger.handlers
    logger.handlers = [handler]
    try:
        yield
    finally:
        logger.handlers = before


# --- telling -------------------------------------------------------------------------------------------------


def report(result: DryRun) -> str:
    """What was measured, as plain text."""
    sections = [
        f"Dry run of '{result.name}' ({result.model} on {result.device}): nothing is written.",
        _batch_text(result),
        "Networks\n" + _indented(_network_lines(result)),
        *([_losses_text(result)] if result.first_log else []),
        _time_text(result),
        f"Memory\n  {result.memory}",
        *(_validation_text(v) for v in result.validations),
        "A run would write to\n" + _indented([os.fspath(p) for p in result.places]),
    ]
    return "\n\n".join(sections) + "\n"


def _table(entries: Sequence[Entry]) -> str:
    rows = [{"": e.key, "shape": e.shape, "type": e.kind, "values": e.values} for e in entries]
    return _indented(text_table(rows).splitlines())


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _batch_text(result: DryRun) -> str:
    if not result.batch:
        return f"{result.about_data}\nAll {result.total:,d} iterations are done: there is nothing to train."
    entries = [*result.batch, *([result.output] if result.output else [])]
    return f"{result.about_data}\n\nFirst batch, and what the network made of it\n{_table(entries)}"


def _network_lines(result: DryRun) -> list[str]:
    lines = []
    for net in result.networks:
        trained = "" if net.trained == net.parameters else f", {net.trained:,d} of them trained"
        lines.append(f"{net.name}: {net.kind}, {net.parameters:,d} parameters{trained}")
    return lines or ["none of the name net_*"]


def _losses_text(result: DryRun) -> str:
    later = f"after {len(result.computed)} more"
    rows = [{"": k, "first iteration": f"{v:.5g}"} for k, v in result.first_log.items()]
    for row in rows:
        if row[""] in result.last_log:
            row[later] = f"{result.last_log[row['']]:.5g}"
    return "Logged values\n" + _indented(text_table(rows).splitlines())


def _time_text(result: DryRun) -> str:
    if not result.batch:
        return "Time\n  not measured"
    lines = [
        f"first batch after {result.until_first_batch:.2f} s, first iteration in {result.first_iteration:.2f} s more "
        f"(kernels are chosen and compiled, memory is taken)"
    ]
    count = len(result.computed)
    if count == 0:
        return "\n".join(["Time", _indented(lines)])
    waited, computed = sum(result.waited), sum(result.computed)
    one = (waited + computed) / count
    share = waited / max(waited + computed, 1e-9)
    lines.append(f"{one:.3g} s an iteration, mean of {count}; {share:.0%} of it waiting for data")
    if result.read_ahead >= count and share < _SEEN_ON_A_CLOCK:
        lines.append(
            f"the loader had read up to {result.read_ahead} batches ahead by then: a lack of workers would show later"
        )
    elif share >= _SEEN_ON_A_CLOCK:
        lines.append("num_worker_per_gpu (more workers) or cache_images (few, small images) can lower the waiting")
    left = result.total - result.start_iter
    lines.append(f"{left:,d} iterations at this speed: {duration(left * one)}")
    one_validation = sum(v.seconds * v.images for v in result.validations)
    if one_validation and result.times_validated:
        lines.append(
            f"{result.times_validated} validations at the speed of one image: "
            f"{duration(result.times_validated * one_validation)}"
        )
    return "\n".join(["Time", _indented(lines)])


def _validation_text(validated: Validated) -> str:
    head = f"Validation on '{validated.name}', the first of {validated.images} images"
    lines = [head, _table(validated.entries)]
    if validated.left_out:
        return "\n".join([*lines, f"  not validated: {validated.left_out}"])
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in validated.metrics.items()) or "no metrics asked for"
    return "\n".join([*lines, f"  {metrics}; {validated.seconds:.2f} s"])
