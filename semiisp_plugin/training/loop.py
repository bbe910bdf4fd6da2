"""Training pipeline: a drop-in for ``basicsr.train.train_pipeline`` that can be stopped at any moment and trusted.

Of the plugin's models: the batch of an iteration depends on the seed and the iteration alone; a run that was killed
resumes from its latest whole checkpoint as if it had not been; one that is told to stop saves first; a loader that
stalls says what it waits for. BasicSR's own models run in BasicSR's own pipeline
(`semiisp_plugin.toolbox.run_basicsr`).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch

from semiisp_plugin.options import OptionError
from semiisp_plugin.toolbox import MessageLogger, dict2str, get_root_logger
from semiisp_plugin.training.distributed import init_distributed
from semiisp_plugin.training.interrupt import Interrupt, Interrupted, StopWaiting
from semiisp_plugin.training.loaders import LAST_SECONDS
from semiisp_plugin.training.progress import short_values, training_bar
from semiisp_plugin.training.run import Run, algorithms, options_or_basicsr, parsed
from semiisp_plugin.training.run_folder import (
    RunLog,
    make_again,
    open_run_folder,
    owned_run,
    run_log,
    wandb_is_asked_for,
)
from semiisp_plugin.training.stall import naming_files

_MISFITS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
OnLog = Callable[[int, Mapping[str, float]], None]
OnValidation = Callable[[int, Mapping[str, Mapping[str, float]]], None]


def train_pipeline(root_path: str, argv: Sequence[str] | None = None) -> Any:
    """Train as the command line says; the drop-in for BasicSR's function of that name.

    Args:
        root_path: Folder that gets ``experiments/`` and ``tb_logger/``.
        argv: Arguments; default: those of the process.

    Returns:
        The trained model; None after ``--dry-run``, and of BasicSR's own models.
    """
    return run_from_arguments(parsed("train", argv), root_path)


def run_from_arguments(args: argparse.Namespace, root_path: str) -> Any:
    """`train_pipeline` for parsed arguments."""
    opt, resolved = options_or_basicsr("train", args, root_path)
    if opt is None:
        return None
    init_distributed(opt, args.launcher)
    if args.dry_run:
        from semiisp_plugin.training.dry_run import dry_run

        with run_log(opt, quiet=True):
            dry_run(Run(opt, args.auto_resume))
        return None
    shown = sys.stderr.isatty()
    return train(opt, option_file=args.opt, option_text=resolved, auto_resume=args.auto_resume, progress=shown)


def train(
    opt: dict[str, Any],
    *,
    option_file: str | None = None,
    option_text: str | None = None,
    auto_resume: bool = False,
    progress: bool = False,
    quiet: bool = False,
    on_log: OnLog | None = None,
    on_validation: OnValidation | None = None,
) -> Any:
    """Train from complete options (`semiisp_plugin.options.load_options` or ``complete``).

    Args:
        opt: Options; ``dist``, ``rank`` and ``world_size`` are filled in for one process when absent.
        option_file: Copied into the run's folder; without it ``opt`` is written there.
        option_text: Its content with all that it extends and with what the command line changed.
        auto_resume: Resume from the run's latest state.
        progress: Show a progress bar on the terminal.
        quiet: Show only warnings on the terminal; the log file gets everything.
        on_log: Called every ``logger:print_freq`` iterations with the iteration and the logged means.
        on_validation: Called after a validation with the iteration and the metrics by data set.

    Returns:
        The model; ``model.latest_metrics`` holds the last validation's values by data set.

    Raises:
        Interrupted: A signal asked to stop (`STOP_SIGNALS`); the iteration under way was finished and saved.
        ValueError: Another process is writing the run's folder.
    """
    if "dist" not in opt:
        init_distributed(opt, "none")
    with owned_run(opt), run_log(opt, quiet) as log, algorithms(bool(opt["deterministic"])):
        if opt["logger"]["use_tb_logger"]:
            wandb_is_asked_for(opt)
        run = Run(opt, auto_resume)
        logger = get_root_logger()
        logger.info(dict2str(opt))
        for line in run.found:
            logger.info(line)
        if run.state:
            logger.info(f"Resuming from iteration {run.start_iter}.")
        resumed_at = run.start_iter if run.resumes_in_its_folder else None
        open_folder = partial(open_run_folder, opt, log, resumed_at, option_file, option_text)
        loop = _Loop(run, log, open_folder, progress and opt["rank"] == 0, on_log, on_validation)
        loop.how_to_resume = " Resume with --auto_resume." if option_file else ""
        loop.run_to_the_end()
    return run.model


class _Loop:
    """The iterations of a run, with what happens between them."""

    def __init__(
        self,
        run: Run,
        log: RunLog,
        open_folder: Callable[[], Any],
        progress: bool,
        on_log: OnLog | None,
        on_validation: OnValidation | None,
    ) -> None:
        self.opt, self.model, self.data = run.opt, run.model, run.data
        self.val_loaders, self.start_iter = run.val_loaders, run.start_iter
        self.logger, self.log, self.open_folder = get_root_logger(), log, open_folder
        self.opened = False
        self.tb_logger: Any = None
        self.on_log, self.on_validation = on_log, on_validation
        self.total = int(self.opt["train"]["total_iter"])
        self.accumulate = int(self.opt["train"]["accumulate"])
        self.validates = bool(self.opt.get("val")) and bool(self.val_loaders)
        settings = self.opt["logger"]
        self.image_freq = settings.get("image_freq") or (self.opt.get("val") or {}).get("val_freq") or self.total
        self.message_logger = MessageLogger(self.opt, self.start_iter)
        self.message_logger.max_iters = self.total + 1  # it subtracts 1 more than is left
        self.model.show_progress = progress
        self.interrupt = Interrupt()
        self.iteration, self.epoch = self.start_iter, int(run.state["epoch"]) if run.state else 0
        self.saved_at = self.start_iter if run.resumes_in_its_folder else None
        self.how_to_resume = ""
        self.waited = self.spent = 0.0  # seconds since the last log line
        self.logged_at = self.start_iter

    def run_to_the_end(self) -> None:
        """Train, validate, save."""
        start = time.monotonic()
        with ExitStack() as stack:
            shown = self.model.show_progress
            bar = training_bar(self.total, self.start_iter, self.opt["name"], shown, self.logger)
            self.bar = stack.enter_context(bar)
            stack.enter_context(self.interrupt)
            stack.callback(self._end_leftovers)
            stack.enter_context(naming_files(self.data.watched))  # looks before workers have ended
            if not self.opt["dist"]:  # otherwise all processes have to stop at the same place
                self.model.waiting = self.interrupt.waiting
            if self._validation_is_owed():
                self.logger.info(f"The validation of iteration {self.iteration:,d} had not been done yet.")
                self._open()
                self._validate()
            if self.start_iter < self.total:
                with closing(self.data.batches()) as batches:
                    self._iterate_over(batches)
            self._open()
            spent = datetime.timedelta(seconds=int(time.monotonic() - start))
            self.logger.info(f"End of training. Time consumed: {spent}. Saving the latest model.")
            self.model.write_records()
            self.model.save(epoch=-1, current_iter=-1)
            self.model.prune_checkpoints(self.iteration)
            if self.validates:
                self._validate()

    def _end_leftovers(self) -> None:
        """End loader workers, and write what waits for TensorBoard; what hangs gets a few seconds, all together."""
        deadline = time.monotonic() + LAST_SECONDS
        writing = self.tb_logger.close() if self.tb_logger else None
        self.data.loader.close()
        if writing:
            writing.join(max(0.0, deadline - time.monotonic()))

    def _open(self) -> None:
        """Make the run's folder, if that is not done: what has failed by then has left an older run where it was."""
        if not self.opened:
            self.tb_logger = self.message_logger.tb_logger = self.open_folder()
            self.opened = True

    def _folder_is_needed(self) -> bool:
        """Whether this iteration is the second, or one that leaves something.

        Not before the second: in it DistributedDataParallel reports parameters that got no gradient.
        """
        settings, iteration = self.opt["logger"], self.iteration
        every = (settings["print_freq"], self.image_freq, settings["save_checkpoint_freq"])
        return (
            iteration > self.start_iter + 1
            or any(iteration % n == 0 for n in every)
            or self._validation_is_due()
            or iteration == self.total
        )

    @contextmanager
    def _saved_first(self) -> Iterator[None]:
        """Around what is no part of a step: an error there costs no iteration."""
        try:
            yield
        except Exception as error:
            if self.opened and self.opt["rank"] == 0:
                self._save_because_of(error)
            raise

    def _save_because_of(self, error: Exception) -> None:
        dist = self.opt["dist"]
        try:
            if self.saved_at != self.iteration:
                # Other processes may be elsewhere, or gone: nothing is gathered from them.
                self.opt["dist"] = self.model.opt["dist"] = False
                self._save()
        except Exception as another:  # such as the same one once more: the first is what counts
            self.logger.error(f"Iteration {self.iteration:,d} could not be saved: {another}")
        else:
            done = f"Stopped after iteration {self.iteration:,d}, which is saved"
            self.logger.error(f"{done}, by {type(error).__name__}: {error}")
        finally:
            self.opt["dist"] = self.model.opt["dist"] = dist

    def _iterate_over(self, batches: Iterator[tuple[int, Any]]) -> None:
        try:
            for iteration in range(self.start_iter + 1, self.total + 1):
                self._train_on(batches, iteration)
                stop = self.interrupt.in_any_process(self.opt, self.model.device)
                if stop or self._folder_is_needed():
                    self._open()
                self._after_iteration(stop)
        except StopWaiting:
            self._save_and_stop(self.interrupt.received)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"The GPU's memory is full in iteration {self.iteration + 1:,d}. Lower batch_size_per_gpu (or "
                f"real_per_batch and pseudo_per_batch) and raise train:accumulate by the same factor; or set "
                f"train:precision: bf16, or a smaller gt_size. ({str(error).splitlines()[0]})"
            ) from error

    def _train_on(self, batches: Iterator[tuple[int, Any]], iteration: int) -> None:
        begin = time.perf_counter()
        for part in range(self.accumulate):
            before = time.perf_counter()
            # Between two iterations nothing is half done. Several processes have to stop at the same place.
            with ExitStack() as stack:
                if part == 0 and not self.opt["dist"]:
                    stack.enter_context(self._saved_first())
                    stack.enter_context(self.interrupt.waiting())
                epoch, batch = next(batches)
            self.waited += time.perf_counter() - before
            if part == 0:
                self.epoch = epoch
                self.model.update_learning_rate(iteration, warmup_iter=self.opt["train"]["warmup_iter"])
            with self.model.accumulating(part), nullcontext() if self.opened else self._naming_inputs(batch):
                self.model.feed_data(batch)
                self.model.optimize_parameters(iteration)
        self.iteration = iteration
        self.spent += time.perf_counter() - begin

    @contextmanager
    def _naming_inputs(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Around the first steps: what a network that does not fit raises, and for which inputs."""
        try:
            yield
        except (torch.OutOfMemoryError, OptionError):
            raise
        except _MISFITS as error:
            text = str(error) if isinstance(error, (RuntimeError, ValueError)) else f"{type(error).__name__}: {error}"
            resumed = f", and train:optim_g as it was in iteration {self.start_iter:,d}" if self.start_iter else ""
            raise RuntimeError(
                f"The first iterations failed, on inputs of {tuple(batch['lq'].shape)} (N, C, H, W): "
                f"{text.rstrip('.')}. Is network_g made for them{resumed}? Nothing was written; a run of this name is "
                f"as it was."
            ) from error

    def _after_iteration(self, stop: int | None) -> None:
        settings, iteration = self.opt["logger"], self.iteration
        if iteration == self.start_iter + 1:
            self.message_logger.reset_start_time()
        with self._saved_first():
            if iteration % settings["print_freq"] == 0:
                self.bar.set_postfix_str(short_values(self._log()), refresh=False)
            self.bar.update()
            if iteration % self.image_freq == 0:
                if self.tb_logger:
                    self.model.log_images(self.tb_logger, iteration)
                self.model.log_histograms(self.tb_logger, iteration)
        if stop:
            self._save_and_stop(stop)
        if iteration % settings["save_checkpoint_freq"] == 0:
            self.logger.info("Saving models and training states.")
            self._save()
        if self._validation_is_due() and iteration < self.total:
            self._validate()

    def _log(self) -> Mapping[str, float]:
        done = self.iteration - self.logged_at
        rates = self.model.get_current_learning_rate()
        logged = self.model.get_current_log()
        if self.on_log:
            self.on_log(self.iteration, logged)
        values = {"epoch": self.epoch, "iter": self.iteration, "lrs": rates}
        values.update(time=self.spent / done, data_time=self.waited / done)
        self.message_logger({**values, **{k: v for k, v in logged.items() if _goes_in_line(k)}})
        if self.tb_logger:
            for name in [k for k in logged if not _goes_in_line(k)]:
                self.tb_logger.add_scalar(name, logged[name], self.iteration)
            self.tb_logger.add_scalar("lr", rates[0], self.iteration)
            self.tb_logger.add_scalar("time/iteration", self.spent / done, self.iteration)
            self.tb_logger.add_scalar("time/waiting_for_data", self.waited / done, self.iteration)
            for source, passes in self.data.passes(self.iteration).items():
                self.tb_logger.add_scalar(f"data/{source}_passes", passes, self.iteration)
                self.tb_logger.add_scalar(f"data/{source}_coverage", min(1.0, passes), self.iteration)
        self.spent = self.waited = 0.0
        self.logged_at = self.iteration
        return logged

    # --- validation and checkpoints --------------------------------------------------------------------------

    def _validation_is_due(self) -> bool:
        return self.validates and self.iteration > 0 and self.iteration % self.opt["val"]["val_freq"] == 0

    def _validation_is_owed(self) -> bool:
        """Whether the run was killed between a checkpoint and the validation of the same iteration."""
        done = self.model.loop_state.get("validated", True)
        return self.start_iter < self.total and self._validation_is_due() and not done

    def _validate(self) -> None:
        make_again(self.opt, self.log)
        with self._saved_first():
            try:
                for loader in self.val_loaders:
                    self.model.validation(loader, self.iteration, self.tb_logger, bool(self.opt["val"]["save_img"]))
            except StopWaiting:
                self._save_and_stop(self.interrupt.received)
            self.bar.unpause()  # its time does not count in the speed of training
            if self.on_validation:
                self.on_validation(self.iteration, self.model.latest_metrics)
        if self.saved_at == self.iteration:  # the best metrics and the random state are others now
            self.model.loop_state["validated"] = True
            self.model.save_training_state(self.epoch, self.iteration)

    def _save(self) -> None:
        self.model.loop_state = {
            "data": self.data.state_dict(self.iteration),
            "validated": not self._validation_is_due(),
        }
        make_again(self.opt, self.log)
        if self.opt["dist"] or self.opt["world_size"] == 1:  # all processes are here
            self.model.write_records()  # before the state, of which the records of all processes are a part
        if self.tb_logger:  # what a killed run has not written by now, the resumed one does not write again
            self.tb_logger.flush()
        self.model.save(self.epoch, self.iteration)
        self.saved_at = self.iteration

    def _save_and_stop(self, signal_number: int | None) -> NoReturn:
        assert signal_number is not None  # nothing else stops a run here
        if self.iteration > self.start_iter:
            self._open()
        interrupted = Interrupted(signal_number, self.iteration if self.opened or self.saved_at else None)
        if self.opened and self.saved_at != self.iteration:
            self._save()
        if self.opt["dist"]:  # a process that ends early takes the others with it
            torch.distributed.barrier()
        self.logger.warning(f"{interrupted}.{self.how_to_resume if interrupted.iteration is not None else ''}")
        raise interrupted


def _goes_in_line(name: str) -> bool:
    """Whether a logged value is in the lines of the log file, too; TensorBoard has all."""
    return "/" not in name or name in ("pseudo/kept_ratio", "pseudo/threshold")
