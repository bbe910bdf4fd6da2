"""All that a training run is made of, built before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from semiisp_plugin.data.auto_settings import resolve_auto
from semiisp_plugin.losses.pseudo_filter import held_out_settings
from semiisp_plugin.models.adopted import build_adopted
from semiisp_plugin.options import is_our_dataset, is_our_model
from semiisp_plugin.toolbox import build_dataset, build_model, get_root_logger
from semiisp_plugin.training.basicsr_data import BasicSRData
from semiisp_plugin.training.loaders import (
    MixedData,
    build_val_loaders,
    estimated_noise,
    gpus_of_this_process,
    set_seed,
)
from semiisp_plugin.training.resume import find_resume_state
from semiisp_plugin.training.run_folder import held_log


class Run:
    """Data, model and training state of a run; a misspelt path fails here, and sets no older run aside.

    Args:
        opt: Complete options.
        auto_resume: Go on from the run's latest state.

    Attributes:
        opt: The options, with what is automatic filled in.
        state: The training state that the run goes on from, or None.
        found: What was found to resume, in sentences.
        start_iter: Iterations done before.
        goes_on_in_its_folder: Whether ``state`` is of the folder that this run writes to.
        data: What batches come from.
        val_loaders: One a validation set.
        model: On its device, resumed.
        held: Log records that were written meanwhile, for the log file that is opened later.
    """

    def __init__(self, opt: dict[str, Any], auto_resume: bool = False) -> None:
        self.opt = opt
        opt["auto_resume"] = auto_resume
        self.ours = is_our_model(opt["model_type"])
        set_seed(opt["manual_seed"] + opt["rank"])
        self.state, self.found = find_resume_state(opt, auto_resume)
        if opt["rank"] == 0:
            for line in self.found:
                print(line, flush=True)
        self.start_iter = int(self.state["iter"]) if self.state else 0
        state_file, states = Path(opt["path"].get("resume_state") or ""), Path(opt["path"]["training_states"])
        self.goes_on_in_its_folder = self.state is not None and state_file.resolve().parent == states.resolve()
        with held_log() as self.held:
            self.data = self._build_data()
            self.val_loaders = build_val_loaders(opt)
            self.model = build_model(opt) if self.ours else build_adopted(opt, self.state)
            if hasattr(self.model, "n_pairs"):
                self.model.n_pairs = self.data.n_pairs
            if "held_out" in opt["datasets"]["train"]:
                self.model.use_held_out(self._dataset.held_out_batches())
            if self.state:
                self.model.resume_training(self.state)
                self._compare_data()

    def _build_data(self) -> MixedData | BasicSRData:
        opt, logger = self.opt, get_root_logger()
        settings = opt["datasets"]["train"]
        held_out = held_out_settings(opt["train"].get("filter")) if self.ours else None
        if held_out:
            settings["held_out"], settings["held_out_seed"] = held_out.count, opt["manual_seed"]
        self._dataset = dataset = build_dataset(settings)
        gpus = gpus_of_this_process(opt)
        if gpus > 1:
            logger.warning(
                f"No launcher, {gpus} GPUs: the batch is {gpus} times that of the option file, split over them."
            )
        if not is_our_dataset(settings["type"]):
            data: MixedData | BasicSRData = BasicSRData(dataset, settings, opt, self.start_iter)
        else:
            if opt["train"].get("noise") == "estimated":
                opt["train"]["noise"] = estimated_noise(dataset, logger)
            chosen = resolve_auto(opt, int(getattr(dataset, "n_real", len(dataset))))
            if chosen:
                logger.info(chosen)
            data = MixedData(opt, dataset, self.start_iter)
        logger.info(data.about())
        return data

    def _compare_data(self) -> None:
        before = self.model.loop_state.get("data")
        changes = self.data.changes_since(before) if before else None
        if changes:
            get_root_logger().warning(f"The resumed run is not what an unbroken one would be. {changes}")


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
