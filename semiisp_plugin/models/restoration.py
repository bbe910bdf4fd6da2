"""What the models of all three phases share: networks, losses, optimiser, schedule, logging, checkpoints.

Built on BasicSR's `SRModel`, whose validation is used as it is. Changed: any torch optimiser, a cosine schedule with a
floor, gradient clipping, losses that can be taken per sample, logs that are means over the print window, checkpoints
that are written beside their place and then renamed, and messages that say what to mend.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from semiisp_plugin.checkpoint import CheckpointError, load_checkpoint, load_weights, save_atomically
from semiisp_plugin.losses.per_sample import full_precision, per_sample
from semiisp_plugin.toolbox import SRModel, build_loss, build_network, get_root_logger, lr_schedulers, master_only

LOSS_KEYS = {"pixel_opt": "l_pix", "perceptual_opt": "l_percep", "ssim_opt": "l_ssim"}
_GRID_IMAGES = 4


def cosine_with_floor(total_iter: int, eta_min_ratio: float) -> Callable[[int], float]:
    """Factor on the learning rate: a half cosine from 1 to ``eta_min_ratio`` over ``total_iter`` (Tables 5 and 6)."""

    def factor(step: int) -> float:
        t = min(step, total_iter) / total_iter
        return eta_min_ratio + (1 - eta_min_ratio) * 0.5 * (1 + math.cos(math.pi * t))

    return factor


@contextmanager
def naming(section: str) -> Iterator[None]:
    """Turn what a class raises about the values of its section into an error that names the section."""
    try:
        yield
    except (TypeError, IndexError, AttributeError, AssertionError) as error:
        raise ValueError(f"{section}: a value is not usable: {error or type(error).__name__}.") from error


class RestorationModel(SRModel):  # type: ignore[misc]  # BasicSR is untyped
    """Base of the three phases' models; see the module's docstring.

    Args:
        opt: Options as `semiisp_plugin.options.load_options` returns them.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        # SRModel's constructor is bypassed: it builds one network and loads weights without a useful message.
        super(SRModel, self).__init__(opt)
        self._window: dict[str, list[Tensor]] = {}
        self.build_networks()
        if self.is_train:
            self.init_training_settings()

    # --- networks --------------------------------------------------------------------------------------------

    def build_networks(self) -> None:
        """Build ``network_g`` and load its weights, if any are given."""
        self.net_g = self.build_one("network_g", "pretrain_network_g")

    def build_one(self, key: str, weights_key: str) -> nn.Module:
        """Build the network of the section ``key`` and load the checkpoint that ``path:<weights_key>`` names."""
        paths = self.opt["path"]
        with naming(key):
            net = build_network(self.opt[key])
        if paths.get(weights_key):
            self.load_network(
                net, paths[weights_key], paths.get("strict_load_g", True), paths.get("param_key_g", "params")
            )
        parameters = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f"{key}: {type(net).__name__} with {parameters:,d} parameters")
        return self.model_to_device(net)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """To the device, and into DistributedDataParallel or DataParallel where those apply; CPU included."""
        net = net.to(self.device)
        if self.opt.get("dist"):
            ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return nn.parallel.DistributedDataParallel(net, device_ids=ids, find_unused_parameters=unused)
        return nn.DataParallel(net) if self.opt["num_gpu"] > 1 else net

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: str = "params") -> None:
        """Load BasicSR's ``{params, params_ema}`` layout, or a bare state dict."""
        checkpoint = load_checkpoint(load_path)
        if param_key in checkpoint:
            weights = checkpoint[param_key]
        elif "params" in checkpoint and param_key == "params_ema":
            get_root_logger().info(f"{load_path} has no '{param_key}'; taking 'params'.")
            weights = checkpoint["params"]
        elif param_key == "params":
            weights = checkpoint  # a bare state dict
        else:
            raise CheckpointError(
                f"{load_path} has no '{param_key}' (path:param_key_g); it has: {', '.join(list(checkpoint)[:6])}."
            )
        net = self.get_bare_model(net)
        load_weights(net, weights, load_path, strict)
        get_root_logger().info(f"Loaded {type(net).__name__} from {load_path}.")

    # --- training --------------------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Losses, EMA, optimiser, schedule."""
        train = self.opt["train"]
        self.net_g.train()
        self.ema_decay = float(train.get("ema_decay") or 0)
        if self.ema_decay > 0:
            self.net_g_ema = deepcopy(self.get_bare_model(self.net_g)).eval().requires_grad_(False)
        # Built without reduction: every loss is taken per sample, and averaged by the model.
        self.losses = nn.ModuleDict()
        for key, name in LOSS_KEYS.items():
            if train.get(key):
                with naming(f"train:{key}"):
                    self.losses[name] = build_loss({**train[key], "reduction": "none"}).to(self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def trained_networks(self) -> list[nn.Module]:
        """The networks that the optimiser updates."""
        return [self.net_g]

    def setup_optimizers(self) -> None:
        """One optimiser of any torch.optim class for all trained networks."""
        settings = dict(self.opt["train"]["optim_g"])
        optimiser = getattr(torch.optim, settings.pop("type"))
        parameters = [p for net in self.trained_networks() for p in net.parameters() if p.requires_grad]
        with naming("train:optim_g"):
            self.optimizer_g = optimiser(parameters, **settings)
        self.optimizers.append(self.optimizer_g)

    def setup_schedulers(self) -> None:
        """``CosineAnnealing`` with a floor relative to the peak, ``Constant``, or one of BasicSR's."""
        train = self.opt["train"]
        settings = dict(train.get("scheduler") or {"type": "Constant"})  # checked in options.py
        kind = settings.pop("type")
        for optimiser in self.optimizers:
            if kind == "CosineAnnealing":
                factor = cosine_with_floor(
                    int(settings.get("total_iter", train["total_iter"])), float(settings.get("eta_min_ratio", 1e-3))
                )
                self.schedulers.append(torch.optim.lr_scheduler.LambdaLR(optimiser, factor))
            elif kind == "Constant":
                self.schedulers.append(torch.optim.lr_scheduler.LambdaLR(optimiser, _constant))
            elif kind in ("MultiStepLR", "MultiStepRestartLR"):
                self.schedulers.append(lr_schedulers.MultiStepRestartLR(optimiser, **settings))
            elif kind == "CosineAnnealingRestartLR":
                self.schedulers.append(lr_schedulers.CosineAnnealingRestartLR(optimiser, **settings))
            else:
                raise ValueError(
                    f"train:scheduler:type: '{kind}' is unknown; CosineAnnealing, Constant, MultiStepLR, "
                    f"MultiStepRestartLR or CosineAnnealingRestartLR."
                )

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch ``{lq, gt, is_pseudo, key}``; validation may lack all but ``lq``."""
        self.lq = data["lq"].to(self.device, non_blocking=True)
        if "gt" in data:
            self.gt = data["gt"].to(self.device, non_blocking=True)
        self.is_pseudo: Tensor = data.get("is_pseudo", torch.zeros(len(self.lq), dtype=torch.bool))
        self.keys = data.get("key")

    def predict(self, net: nn.Module, x: Tensor) -> Tensor:
        """The network's output for ``x`` in float32, whatever precision it is trained with."""
        return full_precision(net(x))

    def draw_number(self, current_iter: int) -> int:
        """Number of this batch, for what is drawn at random for it: each batch of a run has its own."""
        return current_iter

    def sample_losses(self, output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each sample, ``(N,)``, and its parts by name.

        Raises:
            ValueError: The network's output has another size than the target.
        """
        if output.shape != self.gt.shape:
            raise ValueError(
                f"network_g ({type(self.get_bare_model(self.net_g)).__name__}) turns inputs of {tuple(self.lq.shape)} "
                f"into {tuple(output.shape)}; the targets are {tuple(self.gt.shape)}. Take a network that keeps the "
                f"size (for BasicSR's super-resolution ones: upscale: 1)."
            )
        parts = {name: per_sample(loss(output, self.gt)) for name, loss in self.losses.items()}
        return torch.stack(tuple(parts.values())).sum(0), parts

    def step(self, loss: Tensor) -> None:
        """Backward, clip, update, EMA.

        Raises:
            FloatingPointError: The loss is not finite; the message names the batch's images.
        """
        finite = torch.isfinite(loss.detach()).float()
        if self.opt.get("dist"):  # one process that stops alone would leave the others waiting
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if not bool(finite):
            keys = ", ".join(list(self.keys)[:24]) if self.keys else "unknown"
            raise FloatingPointError(
                f"The loss became {loss.item()} on the batch: {keys}. Lower the learning rate (train:optim_g:lr), set "
                f"train:grad_clip, or look at those images; the latest checkpoint is untouched."
            )
        self.optimizer_g.zero_grad(set_to_none=True)
        loss.backward()
        clip = self.opt["train"].get("grad_clip")
        if clip:
            for net in self.trained_networks():
                nn.utils.clip_grad_norm_(net.parameters(), float(clip))
        self.optimizer_g.step()
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Exponential moving average of parameters; buffers are copied (BasicSR leaves them at their start)."""
        net = self.get_bare_model(self.net_g)
        for average, value in zip(self.net_g_ema.parameters(), net.parameters(), strict=True):
            average.lerp_(value, 1 - decay)
        for average, value in zip(self.net_g_ema.buffers(), net.buffers(), strict=True):
            average.copy_(value)

    # --- logging ---------------------------------------------------------------------------------------------

    def record(self, **values: Tensor) -> None:
        """Remember 0-dim values of this iteration; `get_current_log` returns their means since it was last asked."""
        for name, value in values.items():
            self._window.setdefault(name.replace("__", "/"), []).append(value.detach())

    def get_current_log(self) -> OrderedDict[str, float]:
        """Means over the print window, over all processes; the same keys in every process."""
        means = {k: torch.stack(v).float().mean() for k, v in self._window.items()}
        self._window.clear()
        return OrderedDict(self.reduce_loss_dict(means)) if means else OrderedDict()

    def image_groups(self) -> dict[str, Tensor]:
        """Which samples of the current batch go into which grid, as boolean masks ``(N,)`` on the model's device."""
        return {"batch": torch.ones(len(self.lq), dtype=torch.bool, device=self.device)}

    @torch.no_grad()
    def log_images(self, tb_logger: Any, current_iter: int) -> None:
        """Write grids of the current batch to TensorBoard: a sample a column; rows input, output, target."""
        for name, chosen in self.image_groups().items():
            columns = int(chosen.sum().clamp_max(_GRID_IMAGES))
            if columns:
                rows = [t[chosen][:columns].detach().float().clamp(0, 1) for t in (self.lq, self.output, self.gt)]
                tb_logger.add_image(f"images/{name}", make_grid(torch.cat(rows).cpu(), nrow=columns), current_iter)

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        # Metrics are NumPy numbers, which torch refuses to load with weights_only=True.
        super()._update_best_metric_result(dataset_name, metric, float(val), current_iter)

    def _log_validation_metric_values(self, current_iter: int, dataset_name: str, tb_logger: Any) -> None:
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        self.latest_metrics = getattr(self, "latest_metrics", {})
        self.latest_metrics[dataset_name] = {k: float(v) for k, v in self.metric_results.items()}

    @torch.no_grad()
    def test(self) -> None:
        """Run the network, or its average, on the batch of `feed_data`.

        Not through the parallel wrapper: one process validates alone, and the wrapper of a network with buffers would
        wait for the others to exchange them.
        """
        net = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        was_training = net.training
        net.eval()
        self.output = net(self.lq)
        net.train(was_training)

    def nondist_validation(self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool) -> None:
        """BasicSR's validation, with a grid of the first image (input, output, target) in TensorBoard."""
        if tb_logger:
            first = next(iter(dataloader))
            self.feed_data(first)
            self.test()
            name = dataloader.dataset.opt["name"]
            triple = [self.lq, self.output, *([self.gt] if "gt" in first else [])]
            grid = torch.cat([t[0].detach().float().clamp(0, 1).cpu() for t in triple], dim=2)
            tb_logger.add_image(f"validation/{name}_input_output_target", grid, current_iter)
        super().nondist_validation(_UniqueNames(dataloader), current_iter, tb_logger, save_img)

    # --- checkpoints -----------------------------------------------------------------------------------------

    @master_only  # type: ignore[untyped-decorator]  # BasicSR is untyped
    def save_network(self, net: Any, net_label: str, current_iter: int, param_key: Any = "params") -> None:
        """BasicSR's ``net_<label>_<iter>.pth``, written atomically."""
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        state = {
            key: {k.removeprefix("module."): v.cpu() for k, v in self.get_bare_model(n).state_dict().items()}
            for n, key in zip(nets, keys, strict=True)
        }
        save_atomically(state, self.checkpoint_path(f"net_{net_label.removeprefix('net_')}", current_iter))

    def checkpoint_path(self, stem: str, current_iter: int) -> str:
        """``<models>/<stem>_<iter>.pth``; -1 is ``latest``."""
        return os.path.join(
            self.opt["path"]["models"], f"{stem}_{'latest' if current_iter == -1 else current_iter}.pth"
        )

    def resumed_path(self, stem: str, iteration: int) -> str:
        """As `checkpoint_path`, in the run that ``path:resume_state`` belongs to."""
        state = self.opt["path"].get("resume_state")
        models = Path(state).parent.parent / "models" if state else Path(self.opt["path"]["models"])
        return str(models / f"{stem}_{iteration}.pth")

    def extra_state(self) -> dict[str, Any]:
        """More that training needs to go on; saved with the training state."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""

    @master_only  # type: ignore[untyped-decorator]  # BasicSR is untyped
    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """``<iter>.state``: optimisers, schedulers, random state, best metrics, and `extra_state`."""
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "rng": torch.get_rng_state(),
            "model_type": self.opt["model_type"],
            "best_metric_results": getattr(self, "best_metric_results", {}),
            "extra": self.extra_state(),
        }
        save_atomically(state, os.path.join(self.opt["path"]["training_states"], f"{current_iter}.state"))

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Take up a state saved by `save_training_state`; the networks are those of the run the state is of.

        Raises:
            CheckpointError: The state is of another phase.
        """
        iteration = resume_state["iter"]
        saved_by = resume_state.get("model_type", self.opt["model_type"])
        if saved_by != self.opt["model_type"]:
            raise CheckpointError(
                f"{self.opt['path'].get('resume_state')} is a state of {saved_by}, not of {self.opt['model_type']}. To "
                f"start from another phase's network, give path:pretrain_network_g instead of resume_state."
            )
        self.resume_networks(iteration)
        super().resume_training(resume_state)
        if "rng" in resume_state:
            if self.opt.get("dist"):  # the state is of rank 0; the ranks must not draw the same dropout
                torch.manual_seed(self.opt["manual_seed"] + 7919 * iteration + self.opt["rank"])
            else:
                torch.set_rng_state(resume_state["rng"])
        if resume_state.get("best_metric_results"):
            self.best_metric_results = resume_state["best_metric_results"]
        self.load_extra_state(resume_state.get("extra", {}))

    def resume_networks(self, iteration: int) -> None:
        """Load the weights of an iteration of this run."""
        path = self.resumed_path("net_g", iteration)
        self.load_network(self.net_g, path)
        if self.ema_decay > 0:
            self.load_network(self.net_g_ema, path, param_key="params_ema")

    def save(self, epoch: int, current_iter: int) -> None:
        """Networks first, the training state last: a state always has its networks."""
        if hasattr(self, "net_g_ema"):
            self.save_network([self.net_g, self.net_g_ema], "net_g", current_iter, ["params", "params_ema"])
        else:
            self.save_network(self.net_g, "net_g", current_iter)
        self.save_training_state(epoch, current_iter)


class _UniqueNames:
    """A validation loader whose images have file names of their own.

    BasicSR saves results under the input's base name: images of the same name in two folders would overwrite each
    other. Only where a name comes up again, the key with its folders takes its place.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset = loader.dataset

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        seen: set[str] = set()
        for data in self.loader:
            name = Path(data["lq_path"][0]).stem
            if name in seen and "key" in data:
                data = {**data, "lq_path": [f"{data['key'][0].replace('/', '__')}.png"]}
            seen.add(name)
            yield data


def _constant(step: int) -> float:
    return 1.0
