"""The run's folder: log file, TensorBoard, a copy of the options; an older run of the name is renamed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
import yaml

from semiisp_plugin import options as options_module
from semiisp_plugin.io.files import remove_unfinished
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import (
    dict2str,
    get_env_info,
    get_root_logger,
    get_time_str,
    init_wandb_logger,
    initialized_logger,
)


def start_logging(
    opt: dict[str, Any],
    resumed_at: int | None,
    option_file: str | None,
    option_text: str | None = None,
    quiet: bool = False,
    held: MemoryHandler | None = None,
) -> tuple[logging.Logger, Any]:
    """Make the run's folders (an older run of the name is renamed), its log file and TensorBoard writer.

    Args:
        opt: Complete options.
        resumed_at: The iteration a resumed run starts from; None for a new run.
        option_file: Copied into the folder; without it the options are written out.
        option_text: What to write if it says more than the file: what it extends, what the command line changed.
        quiet: See `open_log`.
        held: See `open_log`.

    Raises:
        OptionError: Weights & Biases is asked for and not installed.
    """
    paths = opt["path"]
    use_tb = opt["logger"]["use_tb_logger"] and "debug" not in opt["name"]
    use_wandb = use_tb and bool((opt["logger"].get("wandb") or {}).get("project"))
    if use_wandb:
        try:
            import wandb  # noqa: F401 - before anything is renamed; BasicSR imports it below
        except ImportError as error:
            message = (
                f"logger:wandb: Weights & Biases cannot be imported ({error}); pip install wandb, or leave it out."
            )
            raise OptionError(message) from error
    tb_folder = os.path.join(opt["root_path"], "tb_logger", opt["name"])
    if opt["rank"] == 0:
        if resumed_at is None:
            archive(paths["experiments_root"])
            if use_tb:
                archive(tb_folder)
        for key in ("models", "training_states", "visualization"):
            os.makedirs(paths[key], exist_ok=True)
            remove_unfinished(paths[key])
        copy = Path(paths["experiments_root"]) / (Path(option_file).name if option_file else "options.yml")
        head = f"# {time.asctime()}\n# {shlex.join(sys.argv)}\n"
        copy.write_text(head + _options_text(opt, option_file, option_text), encoding="utf-8")
    if opt["dist"]:
        torch.distributed.barrier()
    logger = open_log(opt, held, quiet)
    if use_wandb:  # before TensorBoard's writer, which it follows
        init_wandb_logger(opt)
    if not use_tb or opt["rank"] != 0:
        return logger, None
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run wrote after its last checkpoint is written again, and the old is not to be shown beside it.
    return logger, SummaryWriter(tb_folder, purge_step=None if resumed_at is None else resumed_at + 1)


def _options_text(opt: dict[str, Any], option_file: str | None, option_text: str | None) -> str:
    """The file as it is, with its comments, where it says all; else what it comes to."""
    if option_file is None:
        return option_text or yaml.safe_dump(json.loads(json.dumps(opt)), sort_keys=False)
    text = Path(option_file).read_text(encoding="utf-8")
    if option_text is None:
        return text
    says_all = yaml.load(text, Loader=options_module.Loader) == yaml.load(option_text, Loader=options_module.Loader)
    return text if says_all else option_text


def archive(folder: str) -> None:
    """Make an empty folder; what stands there is renamed as BasicSR does it, two runs within a second included."""
    if os.path.exists(folder):
        name = base = f"{folder}_archived_{get_time_str()}"
        for n in itertools.count(2):
            if not os.path.exists(name):
                break
            name = f"{base}_{n}"
        os.rename(folder, name)
        print(f"{folder} exists; renamed it to {name}.", flush=True)
    os.makedirs(folder)


@contextmanager
def held_log() -> Iterator[MemoryHandler]:
    """Hold back what is logged, for the log file that is opened later.

    Data sets and networks are built before the run's folders are made: a misspelt path must not rename an older run.
    """
    logger = logging.getLogger("basicsr")
    memory = MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1)
    before, known = (list(logger.handlers), logger.level), "basicsr" in initialized_logger
    logger.handlers = [memory]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    initialized_logger["basicsr"] = True
    try:
        yield memory
    except BaseException:
        logger.handlers = before[0]
        logger.setLevel(before[1])
        if not known:
            initialized_logger.pop("basicsr", None)
        raise


def open_log(opt: dict[str, Any], held: MemoryHandler | None = None, quiet: bool = False) -> logging.Logger:
    """BasicSR's logger on a new file in the run's folder; a run before it in the same process keeps its own file.

    Args:
        opt: Complete options, which are the first that is logged.
        held: What was held back is logged next; of other processes than the first, errors alone.
        quiet: Show only warnings on the terminal.
    """
    logger = logging.getLogger("basicsr")
    for handler in list(logger.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.close()
        logger.removeHandler(handler)
    initialized_logger.pop("basicsr", None)
    file = f"{'train' if opt['is_train'] else 'test'}_{opt['name']}_{get_time_str()}.log"
    logger = get_root_logger("basicsr", logging.INFO, os.path.join(opt["path"]["log"], file))
    for handler in logger.handlers:
        if quiet and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.WARNING)
    logger.info(get_env_info())
    logger.info(dict2str(opt))
    for record in held.buffer if held else ():
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    return logger
