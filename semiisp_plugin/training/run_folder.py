"""The run's folder: log file, TensorBoard, a copy of the options; an older run of the name is renamed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from semiisp_plugin import options as options_module
from semiisp_plugin.io.files import remove_unfinished
from semiisp_plugin.io.locks import owned
from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import (
    get_env_info,
    get_root_logger,
    get_time_str,
    init_wandb_logger,
    initialized_logger,
)
from semiisp_plugin.training.distributed import in_first_process


class RunLog(logging.FileHandler):
    """The log file of a run; what is logged before the run has its folder is held back for it.

    Data sets and networks are built, and the first steps done, before the folder is made: what fails there must not
    rename an older run. A full disk or a folder that is gone ends no run: it is told once.
    """

    def __init__(self) -> None:
        super().__init__(os.devnull, encoding="utf-8", errors="backslashreplace", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
        self.held: list[logging.LogRecord] | None = []
        self._told = False

    def open(self, path: str) -> None:
        """Write to a file from now on, first what was held back."""
        self.baseFilename = os.path.abspath(path)
        records, self.held = self.held or [], None
        for record in records:
            self.handle(record)

    def reopen(self) -> None:
        """Write to a new file of the same name, the old one being gone."""
        if self.stream:
            self.stream.close()
        self.stream = None  # type: ignore[assignment]  # it is opened with the next record

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or hold it back."""
        if self.held is not None:
            self.held.append(record)
            return
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """End the file, whatever of it could be written."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say once why it cannot be written."""
        if not self._told and sys.stderr is not None:
            self._told = True
            with suppress(OSError):
                print(f"{self.baseFilename} cannot be written, the run goes on: {sys.exc_info()[1]}", file=sys.stderr)


@contextmanager
def run_log(opt: dict[str, Any], quiet: bool = False) -> Iterator[RunLog]:
    """Log to the terminal, and for a file that is opened later; first what is to be said about the options.

    Args:
        opt: Complete options. Processes other than the first log errors alone, and have no file.
        quiet: Show only warnings on the terminal.
    """
    logger, rank = logging.getLogger("basicsr"), opt["rank"]
    before, known = (list(logger.handlers), logger.level), "basicsr" in initialized_logger
    log, terminal = RunLog(), logging.StreamHandler()
    terminal.setFormatter(log.formatter)
    terminal.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.handlers = [terminal, *([log] if rank == 0 else [])]
    logger.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    logger.propagate = False
    initialized_logger["basicsr"] = True
    try:
        logger.info(get_env_info())
        for warning in opt.pop("warnings", ()):
            logger.warning(warning)
        yield log
    finally:
        log.close()
        logger.handlers, level = before
        logger.setLevel(level)
        if not known:
            initialized_logger.pop("basicsr", None)


def log_file(opt: dict[str, Any]) -> str:
    """Where a run's log goes."""
    name = f"{'train' if opt['is_train'] else 'test'}_{opt['name']}_{get_time_str()}.log"
    return os.path.join(opt["path"]["log"], name)


# --- the folder ------------------------------------------------------------------------------------------------------


@contextmanager
def owned_run(opt: dict[str, Any]) -> Iterator[None]:
    """Own the folder of a run, whose processes are one owner: the first holds the lock.

    Raises:
        ValueError, OSError: See `semiisp_plugin.io.locks.owned`; in all processes.
    """
    folder = opt["path"]["experiments_root" if opt["is_train"] else "results_root"]
    with ExitStack() as stack:
        in_first_process(opt, lambda: stack.enter_context(owned(folder, "name", beside=True)))
        yield


FOLDERS = ("models", "training_states", "visualization")


def open_run_folder(
    opt: dict[str, Any], log: RunLog, resumed_at: int | None, option_file: str | None, option_text: str | None = None
) -> TensorBoard | None:
    """Make the run's folders (an older run of the name is renamed), its log file and TensorBoard writer.

    Args:
        opt: Complete options.
        log: Gets its file.
        resumed_at: The iteration from which a run is resumed in its folder; None for a new run.
        option_file: Copied into the folder; without it the options are written out.
        option_text: What to write if it says more than the file: what it extends, what the command line changed.

    Returns:
        The writer, in the first process, if one is asked for.

    Raises:
        OSError: The folders cannot be made; an older run is where it was.
    """
    paths, logger = opt["path"], get_root_logger()
    use_tb = opt["logger"]["use_tb_logger"]
    if use_tb and wandb_is_asked_for(opt):  # before TensorBoard's writer, which it follows, and before all that stays
        init_wandb_logger(opt)

    def make() -> None:
        with nullcontext() if resumed_at is not None else replaced(paths["experiments_root"]):
            for key in FOLDERS:
                os.makedirs(paths[key], exist_ok=True)
                remove_unfinished(paths[key])
            copy = Path(paths["experiments_root"]) / (Path(option_file).name if option_file else "options.yml")
            head = f"# {time.asctime()}\n# {shlex.join(sys.argv)}\n"
            text = head + _options_text(opt, option_file, option_text)
            copy.write_text(text, encoding="utf-8", errors="backslashreplace")

    if opt["dist"]:  # all have come as far as this
        torch.distributed.barrier()
    in_first_process(opt, make)
    if opt["rank"] != 0:
        return None
    log.open(log_file(opt))
    if not use_tb:
        return None
    tb_folder = os.path.join(opt["root_path"], "tb_logger", opt["name"])
    if resumed_at is None:
        try:
            set_aside(tb_folder)
        except (OSError, ValueError) as error:
            logger.warning(f"TensorBoard: {tb_folder}, of an older run, could not be renamed: {error}")
    # What a killed run wrote after its last checkpoint is written again, and the old is not to be shown beside it.
    return TensorBoard(tb_folder, None if resumed_at is None else resumed_at + 1)


def wandb_is_asked_for(opt: dict[str, Any]) -> bool:
    """Whether Weights & Biases is to follow TensorBoard.

    Raises:
        OptionError: It is, and is not installed.
    """
    if not (opt["logger"].get("wandb") or {}).get("project"):
        return False
    try:
        import wandb  # noqa: F401 - BasicSR imports it
    except ImportError as error:
        message = f"logger:wandb: Weights & Biases cannot be imported ({error}); pip install wandb, or leave it out."
        raise OptionError(message) from error
    return True


def make_again(opt: dict[str, Any], log: RunLog) -> None:
    """Make folders again that somebody has removed since the run made them, with a warning; in the first process."""
    gone = [opt["path"][key] for key in FOLDERS if opt["rank"] == 0 and not os.path.isdir(opt["path"][key])]
    for folder in gone:
        os.makedirs(folder, exist_ok=True)
    if gone:
        log.reopen()
        get_root_logger().warning(f"Removed while the run was going on, and made again: {', '.join(gone)}.")


def _options_text(opt: dict[str, Any], option_file: str | None, option_text: str | None) -> str:
    """The file as it is, with its comments, where it says all; else what it comes to."""
    if option_file is None:
        return option_text or yaml.safe_dump(json.loads(json.dumps(opt)), sort_keys=False)
    text = Path(option_file).read_text(encoding="utf-8")
    if option_text is None:
        return text
    says_all = yaml.load(text, Loader=options_module.Loader) == yaml.load(option_text, Loader=options_module.Loader)
    return text if says_all else option_text


def set_aside(folder: str | os.PathLike[str]) -> str | None:
    """Rename a folder, if there is one, as BasicSR does it, two runs within a second included; returns the new name.

    Raises:
        ValueError: A command such as ``basicsr enhance`` is writing there.
    """
    if not os.path.lexists(folder):
        return None
    with owned(folder, "name"):
        pass
    name = base = f"{folder}_archived_{get_time_str()}"
    for n in itertools.count(2):
        if not os.path.lexists(name):
            break
        name = f"{base}_{n}"
    os.rename(folder, name)
    with suppress(OSError):  # whoever reads it may be gone
        print(f"{folder} exists; renamed it to {name}.", flush=True)
    return name


@contextmanager
def replaced(folder: str) -> Iterator[None]:
    """Make a new folder in the place of an older one, which is set aside, and put back if the new one fails."""
    before = set_aside(folder)
    try:
        os.makedirs(folder)
        yield
    except BaseException:
        if before:
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(before, folder)
        raise


class TensorBoard:
    """torch's writer, whose trouble (a full disk, a folder that is gone) ends no run.

    It is told, what is written until the next checkpoint is lost, and then a new file is begun.

    Args:
        folder: Where to write.
        purge_step: See torch's ``SummaryWriter``.
    """

    def __init__(self, folder: str, purge_step: int | None = None) -> None:
        self.folder = folder
        self._writer: Any = None
        self._open(purge_step)

    def _open(self, purge_step: int | None = None) -> None:
        def make() -> None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder, purge_step=purge_step)

        self._try(make)

    def _try(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:  # of the disk, of a library: none of them is worth a run
            self._writer = None
            get_root_logger().warning(
                f"TensorBoard: {self.folder} cannot be written, the run goes on without it until the next checkpoint: "
                f"{type(error).__name__}: {error}"
            )

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **named: Any) -> None:
            if self._writer is not None:
                self._try(lambda: getattr(self._writer, name)(*args, **named))

        return call

    def flush(self) -> None:
        """Write what waits; begin a new file after trouble."""
        if self._writer is None:
            self._open()
        else:
            self._try(self._writer.flush)

    def close(self) -> threading.Thread:
        """Write what waits, in a thread: the drive may hang, and who waits for it has better things to do."""
        writer, self._writer = self._writer, None
        thread = threading.Thread(target=self._try, args=(writer.close if writer else lambda: None,), daemon=True)
        thread.start()
        return thread
