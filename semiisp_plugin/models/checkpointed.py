"""Checkpoints of the plugin's models: BasicSR's files, written atomically, with all that training needs to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semiisp_plugin.io.checkpoint import (
    CheckpointError,
    load_network_weights,
    prune,
    save_atomically,
    save_safetensors,
)
from semiisp_plugin.models.random_state import capture_rng, restore_rng
from semiisp_plugin.toolbox import BaseModel, get_root_logger, load_optimizer_state, master_only

BEST = "best"
"""Label of the networks of the best validation, as ``latest`` is that of the end."""


class CheckpointedModel(BaseModel):  # type: ignore[misc]  # BasicSR is untyped
    """The part of `semiisp_plugin.models.restoration.RestorationModel` that saves and loads.

    Files in the run's folder:

    * ``models/net_g_<iter>.pth``: ``{params, params_ema}``, BasicSR's layout, and ``network``, the section of the
      option file that the network was built from, so that the file is enough to run it; ``latest`` at the end of the
      run, ``best`` of the best validation (``logger:keep_best``);
    * ``models/net_g_<iter>.safetensors`` (``logger:safetensors``): the bare weights that validation uses, the average
      where there is one;
    * ``training_states/<iter>.state``: what training needs to resume, written last: a state always has its networks.

    Attributes:
        loop_state: What the training loop wants to find in the state again.
    """

    opt: dict[str, Any]
    loop_state: dict[str, Any]
    best_metric_results: Mapping[str, Any]

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """See `semiisp_plugin.io.checkpoint.load_network_weights`."""
        net = self.get_bare_model(net)
        what = load_network_weights(net, load_path, key=param_key, strict=strict)
        get_root_logger().info(f"Loaded {type(net).__name__} from {load_path} ({what}).")

    # --- saving ----------------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Networks first, the training state last. Called in every process.

        Args:
            epoch: Passes over the real pairs.
            current_iter: Iterations done; -1 for ``latest``, which has no state.
        """
        self.save_networks(current_iter)
        if current_iter != -1:
            self.save_training_state(epoch, current_iter)
            self.prune_checkpoints(current_iter)

    def save_networks(self, label: int | str) -> None:
        """All networks; ``label`` is the iteration, -1 or `BEST`."""
        if hasattr(self, "net_g_ema"):
            self.save_network([self.net_g, self.net_g_ema], "net_g", label, ["params", "params_ema"])
        else:
            self.save_network(self.net_g, "net_g", label)

    @master_only  # type: ignore[untyped-decorator]  # BasicSR is untyped
    def save_network(self, net: Any, net_label: str, current_iter: int | str, param_key: Any = "params") -> None:
        """BasicSR's ``net_<label>_<iter>.pth``, written atomically; and safetensors on request."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        state = {
            key: {k: v.cpu() for k, v in self.get_bare_model(n).state_dict().items()}
            for n, key in zip(nets, keys, strict=True)
        }
        path = self.checkpoint_path(net_label, current_iter)
        network = self.opt[f"network_{net_label.removeprefix('net_')}"]
        save_atomically({**state, "network": network}, path)
        if self.opt["logger"]["safetensors"]:
            about = {"param_key": keys[-1], "network": json.dumps(network)}
            save_safetensors(state[keys[-1]], Path(path).with_suffix(".safetensors"), about)

    def checkpoint_path(self, stem: str, label: int | str) -> str:
        """``<models>/<stem>_<label>.pth``; -1 is ``latest``."""
        return os.path.join(self.opt["path"]["models"], f"{stem}_{'latest' if label == -1 else label}.pth")

    def extra_state(self) -> dict[str, Any]:
        """More that training needs to resume; saved with the training state."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """``<iter>.state``: optimisers, random states of all processes, best metrics, options, and `extra_state`."""
        rng: Any = [capture_rng()]
        if self.opt.get("dist"):
            rng = [None] * self.opt["world_size"]
            torch.distributed.all_gather_object(rng, capture_rng())
        if self.opt.get("rank", 0) != 0:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "options": self.decisive_options(),
            "rng": rng,
            "model_type": self.opt["model_type"],
            "best_metric_results": getattr(self, "best_metric_results", {}),
            "files": self.files_of(current_iter),
            "loop": self.loop_state,
            "extra": self.extra_state(),
        }
        save_atomically(state, os.path.join(self.opt["path"]["training_states"], f"{current_iter}.state"))

    def decisive_options(self) -> dict[str, Any]:
        """The sections that the weights depend on, for a resumed run to say what was changed."""
        networks = {key: section for key, section in self.opt.items() if key.startswith("network_")}
        return {**networks, "train": self.opt["train"], "datasets": {"train": self.opt["datasets"].get("train")}}

    def files_of(self, current_iter: int) -> list[str]:
        """Names of the network files that a state goes with."""
        return [f"net_g_{current_iter}.pth"]

    @master_only  # type: ignore[untyped-decorator]  # BasicSR is untyped
    def prune_checkpoints(self, current_iter: int) -> None:
        """Delete checkpoints older than that of ``current_iter``, if ``logger:keep_last`` says so."""
        keep_last = self.opt["logger"].get("keep_last")
        if not keep_last:
            return
        paths, stems = self.opt["path"], {name.rsplit("_", 1)[0] for name in self.files_of(current_iter)}
        gone = prune(paths["models"], paths["training_states"], stems, int(keep_last), current_iter)
        if gone:
            get_root_logger().info(f"Deleted the checkpoints of iterations {', '.join(map(str, gone))} (keep_last).")

    def keep_best(self, dataset_name: str, current_iter: int | str) -> None:
        """Save the networks as ``best`` if this validation was the best (``logger:keep_best``: the metric's name)."""
        metric = self.opt["logger"].get("keep_best") if self.opt["is_train"] else None
        first = next((d["name"] for phase, d in self.opt["datasets"].items() if phase != "train"), None)
        if metric and dataset_name == first and self.best_metric_results[first][metric]["iter"] == current_iter:
            self.save_networks(BEST)
            get_root_logger().info(f"Best {metric} on {first} so far: saved as {BEST}.")

    # --- resuming --------------------------------------------------------------------------------------------

    def resumed_path(self, stem: str, iteration: int) -> str:
        """As `checkpoint_path`, in the run that ``path:resume_state`` belongs to."""
        state = self.opt["path"].get("resume_state")
        models = Path(state).parent.parent / "models" if state else Path(self.opt["path"]["models"])
        return str(models / f"{stem}_{iteration}.pth")

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Resume from a state saved by `save_training_state`; the networks are those of the run the state is of.

        Raises:
            CheckpointError: The state is of another phase, of a BasicSR model, or of another optimiser.
        """
        iteration, saved_by = resume_state["iter"], resume_state.get("model_type", "one of BasicSR's models")
        if saved_by != self.opt["model_type"]:
            raise CheckpointError(
                f"{self.opt['path'].get('resume_state')} is a state of {saved_by}, not of {self.opt['model_type']}. To "
                f"start from another phase's network, give path:pretrain_network_g instead of resume_state."
            )
        before, now = resume_state["options"], self.decisive_options()
        optimisers = [options["train"]["optim_g"]["type"] for options in (before, now)]
        if optimisers[0] != optimisers[1]:
            raise CheckpointError(
                f"{self.opt['path'].get('resume_state')} is of the optimiser {optimisers[0]}, not of "
                f"{optimisers[1]} (train:optim_g:type). Restore the former one; or, to start from the weights alone, "
                f"give path:pretrain_network_g instead of resume_state."
            )
        self.resume_networks(iteration)
        for optimizer, saved in zip(self.optimizers, resume_state["optimizers"], strict=True):
            load_optimizer_state(optimizer, saved)
        for key in [k for k, value in self.opt["path"].items() if k.startswith("pretrain_network") and value]:
            get_root_logger().info(f"path:{key} is left aside: the networks are those of iteration {iteration:,d}.")
        for change in _changes(before, now):
            get_root_logger().warning(f"Resuming with {change}.")
        rng, rank = resume_state["rng"], self.opt.get("rank", 0)
        if len(rng) == self.opt.get("world_size", 1):
            restore_rng(rng[rank])
        else:  # another number of processes: they must not draw the same dropout
            torch.manual_seed(self.opt["manual_seed"] + 7919 * iteration + rank)
        metrics = set((self.opt.get("val") or {}).get("metrics") or {})
        # Of a data set whose metrics have changed, the old ones would lack a record.
        best = {
            name: {metric: {**known, "val": float(known["val"])} for metric, known in record.items()}
            for name, record in resume_state["best_metric_results"].items()
            if set(record) == metrics
        }
        if best:
            self.best_metric_results = best
        self.loop_state = dict(resume_state["loop"])
        self.load_extra_state(resume_state["extra"])

    def resume_networks(self, iteration: int) -> None:
        """Load the weights of an iteration of this run."""
        path = self.resumed_path("net_g", iteration)
        self.load_network(self.net_g, path)
        if hasattr(self, "net_g_ema"):
            self.load_network(self.net_g_ema, path, param_key="params_ema")


def _changes(before: Any, now: Any, *keys: str) -> Iterator[str]:
    """How options differ from what they were, key by key; a section of another ``type`` as a whole."""
    if isinstance(before, Mapping) and isinstance(now, Mapping) and before.get("type") == now.get("type"):
        for key in {**before, **now}:
            yield from _changes(before.get(key), now.get(key), *keys, key)
    elif before != now:
        was, is_ = ("none" if value is None else value for value in (before, now))
        yield f"{':'.join(keys)} {is_}; it was {was}"
