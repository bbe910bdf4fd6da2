"""All that a training run is made of, built before anything is written."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semiisp_plugin import options, plugins
from semiisp_plugin.arguments import parse, print_anything
from semiisp_plugin.data.table6 import resolve_table6
from semiisp_plugin.io.checkpoint import CheckpointError, load_state, newest_whole_state
from semiisp_plugin.options.structures import held_out_settings
from semiisp_plugin.toolbox import build_dataset, build_model, get_root_logger, run_basicsr
from semiisp_plugin.training.distributed import check_launcher
from semiisp_plugin.training.loaders import MixedData, build_val_loaders, estimated_noise


def parsed(command: str, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command, default those of the process; what they name is imported."""
    print_anything()
    args = parse([command, *(sys.argv[1:] if argv is None else argv)])
    plugins.register(args.imports)
    return args


def options_or_basicsr(
    command: str, args: argparse.Namespace, root_path: str
) -> tuple[dict[str, Any] | None, str | None]:
    """Read the options of a command; if they are of one of BasicSR's own models, BasicSR's own pipeline runs them.

    Args:
        command: ``train`` or ``test``.
        args: Its arguments.
        root_path: Folder that gets ``experiments/`` and ``results/``.

    Returns:
        The complete options of one of the plugin's models, and their text; None and None if BasicSR ran them.

    Raises:
        OptionError: The options are wrong, or ``--dry-run`` is asked of one of BasicSR's models.
    """
    values, source = options.read_options(args.opt, args.force_yml)
    options.check_any_options(values, source)
    is_train = command == "train"
    if options.is_plugin_model(values["model_type"]):
        text = options.dump_options(values)
        return options.complete(values, source, root_path=root_path, is_train=is_train, debug=args.debug), text
    if is_train and args.dry_run:
        raise options.OptionError(
            f"--dry-run: {values['model_type']} runs in BasicSR's own pipeline, which has no such thing. It is for the "
            f"plugin's models; SupervisedModel trains any architecture."
        )
    check_launcher(args.launcher)
    if is_train and "debug" in values["name"]:
        message = (
            "holds 'debug', BasicSR's debug mode: val_freq 8, print_freq 1, save_checkpoint_freq 8, no TensorBoard."
        )
        print(f"WARNING: {source.where(('name',))}: name: {message}", file=sys.stderr)
    how = {"launcher": args.launcher, "auto_resume": is_train and args.auto_resume, "debug": args.debug}
    run_basicsr(command, root_path, values, args.opt, **how)
    return None, None


class Run:
    """Data, model and training state of a run; a misspelt path fails here, and leaves an older run as it is.

    Args:
        opt: Complete options of one of the plugin's models.
        auto_resume: Resume from the run's latest state.

    Attributes:
        opt: The options, with what is automatic filled in.
        state: The training state that is resumed, or None.
        found: What was found to resume, in sentences.
        start_iter: Iterations done before.
        resumes_in_its_folder: Whether ``state`` is of the folder that this run writes to.
        data: What batches come from.
        val_loaders: One a validation set.
        model: On its device, resumed.
    """

    def __init__(self, opt: dict[str, Any], auto_resume: bool = False) -> None:
        self.opt = opt
        opt["auto_resume"] = auto_resume
        set_seed(opt["manual_seed"] + opt["rank"])
        self.state, self.found = find_resume_state(opt, auto_resume)
        if opt["rank"] == 0:
            for line in self.found:
                print(line, flush=True)
        self.start_iter = int(self.state["iter"]) if self.state else 0
        state_file, states = Path(opt["path"].get("resume_state") or ""), Path(opt["path"]["training_states"])
        self.resumes_in_its_folder = self.state is not None and state_file.resolve().parent == states.resolve()
        dataset = self._build_dataset()
        self.data = MixedData(opt, dataset, self.start_iter)
        get_root_logger().info(self.data.about())
        self.val_loaders = build_val_loaders(opt)
        self.model = build_model(opt)
        if hasattr(self.model, "n_pairs"):
            self.model.n_pairs = self.data.n_pairs
        if "held_out" in opt["datasets"]["train"]:
            self.model.use_held_out(dataset.held_out_batches())
        if self.state:
            changes = self._resume(self.state)
            if changes:
                get_root_logger().warning(f"The resumed run is not what an unbroken one would be. {changes}")

    def _resume(self, state: dict[str, Any]) -> str | None:
        """Resume the model; returns how the order of the samples has changed, see `MixedData.changes_since`."""
        try:
            self.model.resume_training(state)
            before = self.model.loop_state.get("data")
            return self.data.changes_since(before) if before else None
        except CheckpointError:
            raise
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:  # not as it was saved
            raise CheckpointError(
                f"{self.opt['path'].get('resume_state')} cannot be resumed: it is damaged, or of another program "
                f"({type(error).__name__}: {error}). Take an earlier state, or give path:pretrain_network_g instead."
            ) from error

    def _build_dataset(self) -> Any:
        opt, logger = self.opt, get_root_logger()
        settings = opt["datasets"]["train"]
        held_out = held_out_settings(opt["train"].get("filter"))
        if held_out:
            settings["held_out"], settings["held_out_seed"] = held_out.count, opt["manual_seed"]
        dataset = build_dataset(settings)
        if opt["num_gpu"] > 1 and not opt["dist"]:
            logger.warning("A process uses one GPU: for several, start it with torchrun and --launcher pytorch.")
        if opt["train"].get("noise") == "estimated":
            opt["train"]["noise"] = estimated_noise(dataset, logger)
        chosen = resolve_table6(opt, int(getattr(dataset, "n_real", len(dataset))))
        if chosen:
            logger.info(chosen)
        return dataset


def find_resume_state(opt: dict[str, Any], auto_resume: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """The state to resume, or None.

    With ``auto_resume`` it is the newest one in the folder that the run writes to, which is whole and has its networks;
    ``path:resume_state`` becomes its path. Where there is none, ``path:resume_state`` counts, as without.

    Returns:
        The state; and what was found, in sentences for the user.

    Raises:
        CheckpointError: ``path:resume_state`` names what cannot be read.
    """
    paths = opt["path"]
    named = paths.get("resume_state")
    if not auto_resume:
        return (load_state(named), [f"resume_state: resuming from {named}"]) if named else (None, [])
    folder = Path(paths["training_states"])
    networks = [f"net_{k.removeprefix('network_')}" for k in opt if k.startswith("network_")]
    found, state, skipped = newest_whole_state(folder, paths["models"], networks)
    said = [f"auto_resume: skipped: {reason}" for reason in skipped]
    if found is None:
        start = f"resuming from resume_state, {named}" if named else "starting at iteration 0"
        return load_state(named) if named else None, [
            *said,
            f"auto_resume: nothing to resume in {folder}: {start}",
        ]
    paths["resume_state"] = str(found)
    total = int(opt["train"]["total_iter"])
    said.append(f"auto_resume: resuming from {found} (iteration {state['iter']:,d} of {total:,d})")
    if named and Path(named).resolve() != found.resolve():
        said.append(f"auto_resume: path:resume_state is left aside: {named}")
    return state, said


def set_seed(seed: int) -> None:
    """Seed torch, numpy and random of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def algorithms(deterministic: bool) -> Iterator[None]:
    """As BasicSR the fastest of cuDNN's; or those of torch that give the same result each time."""
    before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.use_deterministic_algorithms(before[1], warn_only=torch.is_deterministic_algorithms_warn_only_enabled())
