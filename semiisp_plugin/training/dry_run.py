"""``basicsr train --dry-run``: builds everything, trains on a few batches, validates on one image, writes nothing.

The weights change in memory alone. What a run would be is told in plain text.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from semiisp_plugin.report.tables import Table
from semiisp_plugin.training.run import Run
from semiisp_plugin.training.stall import naming_files

MOST_ITERATIONS = 5
"""Timed iterations; one more, which warms up, comes before them."""

MOST_SECONDS = 3.0
"""After which no further one begins."""

Times = list[tuple[float, float]]
"""Of each iteration: seconds waited for its batches, seconds without that."""


def dry_run(run: Run, out: TextIO | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
    """Try a run and print what it would be: train on a few batches, validate on one image of each set.

    Args:
        run: As training builds it.
        out: Where to print; default: standard output. Processes other than the first print nothing.
        clock: Seconds.
    """
    opt, model = run.opt, run.model
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model.opt["logger"]["keep_best"] = None  # it would save
    batch, times = _train(run, clock)
    sections = [
        f"Dry run of '{opt['name']}' ({opt['model_type']} on {model.device}): nothing is written.",
        run.data.about(),
        _section("First batch, and what the network made of it", _table(batch))
        if batch
        else "All iterations are done: there is nothing to train.",
        _section("Networks", network_lines(model)),
        _section("Logged values", [f"{key} {value:.5g}" for key, value in model.get_current_log().items()]),
        *([_section("GPU memory", _memory())] if model.device.type == "cuda" else []),
    ]
    seconds = 0.0
    for loader in run.val_loaders if opt.get("val") else ():
        text, one = _validate(run, loader.dataset, clock)
        sections.append(text)
        seconds += one * len(loader.dataset)  # type: ignore[arg-type]  # data sets here have a length
    sections.append(_section("Time", _time_lines(run, times, seconds)))
    if opt["rank"] == 0:
        print("\n\n".join(sections), file=out or sys.stdout, flush=True)


def seconds_a_step(run: Run) -> float:
    """How long an iteration takes, waiting for its batch included: the mean of a few after the first."""
    _, times = _train(run, time.perf_counter)
    counted = times[1:] or times
    return sum(waited + computed for waited, computed in counted) / len(counted)


def _train(run: Run, clock: Callable[[], float]) -> tuple[dict[str, Any], Times]:
    """The first iteration's batch, with the network's ``output`` for it; and the times."""
    model, train = run.model, run.opt["train"]
    first: dict[str, Any] = {}
    times: Times = []
    iterations = range(run.start_iter + 1, int(train["total_iter"]) + 1)[: 1 + MOST_ITERATIONS]
    with naming_files(run.data.watched), closing(run.data.batches()) as batches:
        for iteration in iterations:
            begin, waited = clock(), 0.0
            model.update_learning_rate(iteration, warmup_iter=train["warmup_iter"])
            for part in range(int(train["accumulate"])):
                before = clock()
                _, batch = next(batches)
                waited += clock() - before
                with model.accumulating(part):
                    model.feed_data(batch)
                    model.optimize_parameters(iteration)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append((waited, clock() - begin - waited))
            first = first or {**batch, "output": model.output_to_show()}
            if sum(sum(pair) for pair in times[1:]) >= MOST_SECONDS:
                break
    return first, times


def _validate(run: Run, dataset: Any, clock: Callable[[], float]) -> tuple[str, float]:
    """What validation makes of the first image; and the seconds it took, reading included."""
    one: DataLoader[Any] = DataLoader(dataset, batch_size=1, sampler=[0], generator=torch.Generator())
    (item,) = one
    begin = clock()
    run.model.validation(one, run.start_iter, None, False)  # writes nothing: no TensorBoard, no images
    seconds = clock() - begin
    values = run.model.metric_results if run.opt["val"].get("metrics") else {}
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in values.items()) or "no metrics asked for"
    head = f"Validation on '{dataset.opt['name']}', the first of {len(dataset)} images"
    return _section(head, [*_table(item), f"{metrics}; {seconds:.2f} s"]), seconds


def described(value: Tensor) -> tuple[str, str, str]:
    """Shape, type and values of what a batch holds under a key."""
    wrong = int((~torch.isfinite(value)).sum())
    numbers = value.detach().double()
    text = f"{numbers.min():.4g} ... {numbers.max():.4g}, mean {numbers.mean():.4g}"
    text = f"{wrong} values are NaN or infinite" if wrong else text
    return "x".join(map(str, value.shape)), str(value.dtype).removeprefix("torch."), text


def network_lines(model: Any) -> list[str]:
    """The networks that a model keeps as ``net_<name>``, and their sizes."""
    nets = {n: model.get_bare_model(net) for n, net in sorted(vars(model).items()) if isinstance(net, nn.Module)}
    counts = {name: sum(p.numel() for p in net.parameters()) for name, net in nets.items() if name.startswith("net_")}
    return [f"{name}: {type(nets[name]).__name__}, {count:,d} parameters" for name, count in counts.items()]


def _time_lines(run: Run, times: Times, one_validation: float) -> list[str]:
    if len(times) < 2:
        return ["not measured"]
    count, opt = len(times) - 1, run.opt
    all_waited, total = sum(w for w, _ in times[1:]), sum(w + c for w, c in times[1:])
    last = int(opt["train"]["total_iter"])
    left = last - run.start_iter
    lines = [
        f"{total / count:.3g} s an iteration, mean of {count}; {all_waited / max(total, 1e-9):.0%} of it waiting for "
        f"data, which num_worker_per_gpu (more workers) or cache_images (few, small images) can lower",
        f"{left:,d} iterations at this speed: {tqdm.format_interval(left * total / count)}",
    ]
    frequency = (opt.get("val") or {}).get("val_freq")
    validations = last // frequency - run.start_iter // frequency if frequency else 0
    if one_validation and validations:
        spent = tqdm.format_interval(validations * one_validation)
        lines.append(f"{validations} validations at the speed of one image: {spent}")
    return lines


def _memory() -> list[str]:
    """Most GPU memory taken so far, in words."""
    used, total = (
        torch.cuda.max_memory_reserved(),
        torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory,
    )
    return [f"{used / 2**30:.2f} of {total / 2**30:.2f} GiB at the most"]


def _table(values: Mapping[str, Any]) -> list[str]:
    rows = [(key, *described(value)) for key, value in values.items() if isinstance(value, Tensor)]
    return Table(("", "shape", "type", "values"), rows).text().splitlines()


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n  ".join([title, *lines])
