"""Validation in batches, by all processes, each image read and evaluated once.

BasicSR's (`SRModel.nondist_validation`) runs image by image in one process while the others wait.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import write_image
from semiisp_plugin.metrics import Images, images_for
from semiisp_plugin.toolbox import calculate_metric, tensor2img

_INTERVAL = 0.2  # least seconds between two drawings


class ProgressBar(tqdm):  # type: ignore[type-arg]  # generic in its stubs alone
    """Drawn between two steps, never by a thread: workers may be forked at any time, and its locks with them.

    Args:
        enabled: Whether to draw; where standard error is no terminal nothing is drawn either.
        arguments: Of `tqdm.tqdm`.
    """

    monitor_interval = 0

    def __init__(self, enabled: bool, **arguments: Any) -> None:
        drawn = {"disable": None if enabled else True, "file": sys.stderr, "mininterval": _INTERVAL}
        super().__init__(dynamic_ncols=True, **drawn, **arguments)


def waited_for(
    loader: Iterable[dict[str, Any]], waiting: Callable[[], AbstractContextManager[None]]
) -> Generator[dict[str, Any], None, None]:
    """What a loader gives, with a context around each wait; its workers end with it."""
    items = iter(loader)
    try:
        while True:
            with waiting():
                item = next(items, None)
            if item is None:
                return
            yield item
    finally:
        if hasattr(items, "close"):
            items.close()


class ValidationError(RuntimeError):
    """A network or a metric has failed on an image; the message names it."""


@contextmanager
def naming_image(dataset: str, item: Mapping[str, Any]) -> Iterator[None]:
    """Around what is done with an image of a data set.

    Raises:
        ValueError: In place of one, which says already what is wrong.
        ValidationError: In place of all else.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = ValueError if isinstance(error, ValueError) else ValidationError
        raise kind(f"{item['lq_path'][0]} (data set '{dataset}'): {reason}") from error


def groups_of_one_size(loader: Any, batch_size: int) -> Generator[list[dict[str, Any]], None, None]:
    """Neighbouring images of a loader that can share a batch: of one size, at most ``batch_size`` of them."""
    for _, same in itertools.groupby(loader, lambda item: item["lq"].shape):
        while group := list(itertools.islice(same, batch_size)):
            yield group


def together(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Items that a loader gave one by one, as one batch."""
    return {
        key: torch.cat([i[key] for i in group]) if isinstance(value, Tensor) else [v for i in group for v in i[key]]
        for key, value in group[0].items()
    }


def result_name(item: Mapping[str, Any]) -> str:
    """What an image's results are called: its file's base name; its key where it lies in a folder below the root.

    Images of one name in two folders would overwrite each other.
    """
    key = str(item["key"][0]) if "key" in item else ""
    return key.replace("/", "__") if "/" in key else Path(item["lq_path"][0]).stem


def validate(
    model: Any,
    loader: Any,
    current_iter: int | str,
    tb_logger: Any,
    save_img: bool,
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Run a model over a data set: metrics, their best values, images on disk and in TensorBoard.

    Sets ``model.metric_results``, the means over the images, in every process.

    Args:
        model: A `semiisp_plugin.models.restoration.RestorationModel`.
        loader: Gives this process's images one by one; its ``sampler`` gives their numbers.
        current_iter: Iteration, or the run's name when testing.
        tb_logger: TensorBoard's writer, or None.
        save_img: Write the results as images.
        waiting: A context for waiting for an image, which may break the validation off.

    Raises:
        ValidationError: The network or a metric has failed.
    """
    dataset, opt = loader.dataset, model.opt
    name, metrics = dataset.opt["name"], opt["val"].get("metrics") or {}
    numbers = list(loader.sampler)
    batch_size = int(dataset.opt.get("batch_size_per_gpu") or 1)
    rows: list[tuple[int, str, dict[str, float]]] = []
    position = 0
    with (
        ProgressBar(
            model.show_progress and opt["val"]["pbar"], total=len(numbers), desc=name, unit="img", leave=False
        ) as bar,
        closing(waited_for(loader, waiting)) as items,  # ends loader workers, whatever happens
    ):
        for group in groups_of_one_size(items, batch_size):
            if metrics and "gt" not in group[0]:
                raise ValueError(
                    f"The data set '{name}' has no targets, which val:metrics needs: give it dataroot_gt, or leave "
                    f"val:metrics out."
                )
            with naming_image(name, group[0]):
                batch = together(group)
                model.feed_data(batch)
                model.test()
            if tb_logger and position == 0:
                shown = [batch["lq"], model.output, *([batch["gt"]] if "gt" in batch else [])]
                grid = torch.cat([t[0].detach().float().clamp(0, 1).cpu() for t in shown], dim=2)
                tb_logger.add_image(f"validation/{name}_input_output_target", grid, current_iter)
            outputs = model.output.detach().cpu()
            for i, item in enumerate(group):
                image_name = result_name(item)
                if save_img:
                    path = _image_path(opt, name, image_name, current_iter)
                    write_image(path, _image("8 bit", outputs[i])[:, :, ::-1])
                if metrics:
                    with naming_image(name, item):
                        rows.append((numbers[position], image_name, measure(outputs[i], item["gt"][0], metrics)))
                position += 1
                bar.update()
    for held in ("lq", "gt", "output"):  # whole images, on the GPU
        model.__dict__.pop(held, None)
    if opt.get("dist"):
        gathered: list[Any] = [None] * opt["world_size"]
        torch.distributed.all_gather_object(gathered, rows)
        rows = [row for part in gathered for row in part]
    rows.sort(key=lambda row: row[0])
    if not metrics:
        return
    model.metric_results = {m: sum(row[m] for _, _, row in rows) / len(rows) for m in metrics}
    model.latest_metrics[name] = model.metric_results
    if opt["is_train"]:
        model._initialize_best_metric_results(name)
        for metric, value in model.metric_results.items():
            model._update_best_metric_result(name, metric, value, current_iter)
    model._log_validation_metric_values(current_iter, name, tb_logger)
    if not opt["is_train"] and opt.get("rank", 0) == 0:
        _write_table(Path(opt["path"]["results_root"]) / f"metrics_{name}.csv", rows, list(metrics))


def measure(output: Tensor, target: Tensor, metrics: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """All metrics of one image.

    Args:
        output: ``(3, H, W)``, RGB, as the network gave it.
        target: ``(3, H, W)`` in [0, 1].
        metrics: The section ``val: metrics``. Each gets the images it asks for: of 8 bits, as BasicSR hands them over,
            or floats (`semiisp_plugin.metrics.takes_floats`).

    Returns:
        The values by name; all NaN where the output has a NaN, which an image of 8 bits would show as black.

    Raises:
        ValueError: A metric gives NaN of numbers: too little of the image is left (see `check_borders`), or its window
            is larger.
    """
    if torch.isnan(output).any():
        return dict.fromkeys(metrics, math.nan)
    height, width = output.shape[-2:]
    check_borders(metrics, height, width)
    made: dict[str, dict[str, Any]] = {}
    values = {}
    for name, settings in metrics.items():
        kind = images_for(settings)
        if kind not in made:
            made[kind] = {"img": _image(kind, output), "img2": _image(kind, target)}
        values[name] = float(calculate_metric(made[kind], settings))
        if math.isnan(values[name]) and torch.isfinite(output).all():
            raise ValueError(f"val:metrics:{name} gives NaN for an image of {height}x{width} pixels: is it too small?")
    return values


def check_borders(metrics: Mapping[str, dict[str, Any]], height: int, width: int) -> None:
    """Raise a ValueError for a metric whose ``crop_border`` leaves nothing of an image, of which BasicSR makes NaN."""
    for name, settings in metrics.items():
        border, most = settings.get("crop_border") or 0, (min(height, width) - 1) // 2
        if border > most:
            raise ValueError(
                f"val:metrics:{name}: crop_border: {border} leaves nothing of an image of {height}x{width} pixels; "
                f"give at most {most}."
            )


def _image(kind: Images, image: Tensor) -> npt.NDArray[Any]:
    """``(H, W, 3)``, B, G, R, 255 for white: as BasicSR's ``tensor2img``, or without its rounding and clamp."""
    if kind == "8 bit":
        rounded: npt.NDArray[np.uint8] = tensor2img(image.clone())  # it clamps in place
        return rounded
    bgr: npt.NDArray[np.float64] = image.detach().cpu().double().numpy()[::-1].transpose(1, 2, 0) * 255
    return bgr if kind == "unclamped float" else np.clip(bgr, 0, 255)


def _image_path(opt: Mapping[str, Any], dataset: str, image: str, current_iter: int | str) -> str:
    """Where BasicSR puts a result."""
    folder = opt["path"]["visualization"]
    if opt["is_train"]:
        return os.path.join(folder, image, f"{image}_{current_iter}.png")
    return os.path.join(folder, dataset, f"{image}_{opt['val'].get('suffix') or opt['name']}.png")


def _write_table(path: Path, rows: list[tuple[int, str, dict[str, float]]], metrics: list[str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["image", *metrics])
    writer.writerows([image, *(f"{row[m]:.6g}" for m in metrics)] for _, image, row in rows)
    write_atomically(path, text.getvalue())
