"""BasicSR's own models, made safe: a class in front of BasicSR's, for each instance that is built here.

Nothing of BasicSR is patched; a model built by BasicSR itself is what it was. The losses of a run are those of
BasicSR's own pipeline, number by number. What is mended:

* checkpoints are those of `semiisp_plugin.models.checkpointed`: atomic, never "just ignored", random states and best
  metrics included. BasicSR's own pipeline loads them, and its checkpoints are loaded here;
* on resume, the networks come from the run that the state is of, completely, the average (EMA) included;
* EMA copies buffers, which BasicSR leaves at their start;
* any optimiser of ``torch.optim``;
* several processes train on CPUs, too; the one that validates does not wait for the others;
* a loss that is not finite stops the run and names the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint, load_weights
from semiisp_plugin.models.checkpointed import CheckpointedModel
from semiisp_plugin.random_state import capture_rng, draw_as_a_loader, reseed, restore_rng
from semiisp_plugin.toolbox import MODEL_REGISTRY, BaseModel, SRModel, build_model, get_root_logger

_REPLACED = (
    "load_network",
    "save_network",
    "save_training_state",
    "resume_training",
    "model_to_device",
    "get_optimizer",
    "model_ema",
)
_NAMED = 24  # images or weights in a message


class AdoptedModel(CheckpointedModel):
    """What `build_adopted` puts in front of a class of BasicSR; see the module's docstring.

    Args:
        opt: Options as `semiisp_plugin.options.load_options` returns them.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self.loop_state = {}
        self.latest_metrics: dict[str, dict[str, float]] = {}
        self._batch_names: list[str] = []
        self._stems: list[str] = []
        self._networks_alone = False
        super().__init__(opt)

    # --- networks --------------------------------------------------------------------------------------------

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """As BasicSR's, on CPUs as well."""
        net = net.to(self.device)
        if self.opt["dist"]:
            ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return nn.parallel.DistributedDataParallel(net, device_ids=ids, find_unused_parameters=unused)
        return nn.DataParallel(net) if self.opt["num_gpu"] > 1 else net

    def load_network(self, net: nn.Module, load_path: str, strict: bool = True, param_key: Any = "params") -> None:
        """As BasicSR's, with messages that say what to mend.

        Args:
            net: Network.
            load_path: BasicSR's ``{params, params_ema}`` layout, a bare state dict, or safetensors.
            strict: False takes what fits in name and shape, and logs what does not.
            param_key: Which weights of the file; None for a bare state dict.
        """
        net = self.get_bare_model(net)
        if param_key is not None and strict:
            super().load_network(net, load_path, strict, param_key)
            return
        checkpoint: Mapping[str, Any] = load_checkpoint(load_path)
        if param_key is not None:
            key = param_key if param_key in checkpoint or "params" not in checkpoint else "params"
            checkpoint = checkpoint.get(key, checkpoint)
        weights = {k.removeprefix("module."): v for k, v in checkpoint.items() if isinstance(v, torch.Tensor)}
        if not weights:
            raise CheckpointError(
                f"{load_path} holds no weights under path:param_key_* {param_key}; it has: "
                f"{', '.join(list(checkpoint)[:6])}."
            )
        if not strict:
            own = net.state_dict()
            others = {k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape}
            for names, what in (
                (own.keys() - weights.keys(), "not in the file"),
                (weights.keys() - own.keys(), "not in the network"),
                (others, "of another shape"),
            ):
                _warn(load_path, what, names)
            weights = {k: v for k, v in weights.items() if k not in others}
        load_weights(net, weights, load_path, strict)
        get_root_logger().info(f"Loaded {type(net).__name__} from {load_path}.")

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Any optimiser of ``torch.optim`` by its name (BasicSR knows Adam)."""
        kinds: dict[str, Any] = {
            n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, torch.optim.Optimizer)
        }
        if optim_type not in kinds:
            raise ValueError(f"train:optim_*:type: torch.optim has no optimiser '{optim_type}'.")
        return kinds[optim_type](params, lr=lr, **kwargs)

    def model_ema(self, decay: float = 0.999) -> None:
        """BasicSR's average of the parameters, and a copy of the buffers."""
        super().model_ema(decay)
        values = dict(self.get_bare_model(self.net_g).named_buffers())
        for name, average in self.net_g_ema.named_buffers():
            average.copy_(values[name])

    # --- training --------------------------------------------------------------------------------------------

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """As BasicSR's; remembers the batch's names for messages."""
        names = data.get("lq_path", data.get("gt_path", data.get("key")))
        self._batch_names = [names] if isinstance(names, str) else [str(n) for n in names or ()]
        super().feed_data(data)

    def optimize_parameters(self, current_iter: int) -> None:
        """BasicSR's step.

        Raises:
            FloatingPointError: A loss was not finite.
        """
        super().optimize_parameters(current_iter)
        self._check_losses(current_iter)
        for _ in range(self._validations_after(current_iter)):
            # What a validation's loader draws in BasicSR's pipeline. It is drawn here, before the checkpoint of this
            # iteration is saved, so that a run that is resumed from it need not know whether it was validated.
            draw_as_a_loader()

    def _check_losses(self, current_iter: int) -> None:
        log: Mapping[str, float] = getattr(self, "log_dict", {})
        bad = {name: value for name, value in log.items() if not math.isfinite(value)}
        if self.opt.get("dist"):
            # The logged means are those of the first process; one that stopped alone would leave the others waiting.
            stop = torch.tensor(float(bool(bad)), device=self.device)
            torch.distributed.broadcast(stop, 0)
            if stop and self.opt["rank"] != 0:
                raise FloatingPointError(f"A loss became not finite in iteration {current_iter}.")
            bad = bad if stop else {}
        if bad:
            values = ", ".join(f"{name} {value}" for name, value in bad.items())
            names = ", ".join(self._batch_names[:_NAMED]) or "unknown"
            raise FloatingPointError(
                f"Losses that are not finite in iteration {current_iter}: {values}; the batch: {names}. The weights "
                f"are spoilt: go on from the latest checkpoint (--auto_resume), with a lower learning rate "
                f"(train:optim_g:lr) or without those images."
            )

    def _validations_after(self, current_iter: int) -> int:
        """How many loaders BasicSR's pipeline iterates over in the validation after an iteration."""
        val, total = self.opt.get("val"), self.opt["train"]["total_iter"]
        if not val or not val.get("val_freq") or current_iter % val["val_freq"] or current_iter >= total:
            return 0
        # Others than SRModel and its kind read the data set without a loader.
        by_loader = isinstance(self, SRModel) and type(self).dist_validation is SRModel.dist_validation
        if not by_loader or self.opt.get("rank", 0) != 0:
            return 0
        return sum(phase != "train" for phase in self.opt["datasets"])

    # --- validation ------------------------------------------------------------------------------------------

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """BasicSR's validation; leaves the random generators as they were."""
        before = capture_rng()
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        finally:
            restore_rng(before)
        if self.is_train and self.latest_metrics:  # those of the process that validates
            self.keep_best(dataloader.dataset.opt["name"], current_iter)

    def test(self) -> None:
        """BasicSR's, without the parallel wrapper: other processes do not take part, and it would wait for them."""
        wrapped = getattr(self, "net_g", None)
        if wrapped is None:
            super().test()
            return
        self.net_g = self.get_bare_model(wrapped)
        try:
            super().test()
        finally:
            self.net_g = wrapped

    def _update_best_metric_result(self, dataset_name: str, metric: str, val: float, current_iter: int) -> None:
        # Metrics are NumPy numbers, which torch refuses to load with weights_only=True.
        super()._update_best_metric_result(dataset_name, metric, float(val), current_iter)
        self.latest_metrics.setdefault(dataset_name, {})[metric] = float(val)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def save_networks(self, label: int | str) -> None:
        """All networks that BasicSR's class saves."""
        self._stems = []
        self._networks_alone = True
        try:
            super(CheckpointedModel, self).save(0, label)
        finally:
            self._networks_alone = False

    def save_network(self, net: Any, net_label: str, current_iter: int | str, param_key: Any = "params") -> None:
        """See `CheckpointedModel.save_network`."""
        self._stems.append(net_label)
        super().save_network(net, net_label, current_iter, param_key)

    def files_of(self, current_iter: int) -> list[str]:
        """Names of the network files that a state goes with: those that BasicSR's class saves."""
        return [Path(self.checkpoint_path(stem, current_iter)).name for stem in self._stems]

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """See `CheckpointedModel.save_training_state`."""
        if not self._networks_alone:  # BasicSR's `save` asks for it, too
            super().save_training_state(epoch, current_iter)

    def extra_state(self) -> dict[str, Any]:
        """Which weights are frozen: EDVR and the recurrent video models begin with a part of them, in iteration 1."""
        return {"frozen": {key: [n for n, p in net if not p.requires_grad] for key, net in self._named_weights()}}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`; BasicSR's states have none."""
        for key, net in self._named_weights():
            if key in state.get("frozen", {}):
                frozen = set(state["frozen"][key])
                for name, parameter in net:
                    parameter.requires_grad_(name not in frozen)

    def _named_weights(self) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
        nets = [(k, v) for k, v in vars(self).items() if k.startswith("net_") and isinstance(v, nn.Module)]
        return [(key, list(self.get_bare_model(net).named_parameters())) for key, net in nets]

    def resume_networks(self, iteration: int) -> None:
        """Nothing: the networks were loaded when the model was built (`build_adopted`)."""

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Take up a state of ours or of BasicSR's own pipeline.

        Raises:
            CheckpointError: It is of another model, or of other networks.
        """
        try:
            super().resume_training(resume_state)
        except (AssertionError, ValueError, KeyError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{self.opt['path'].get('resume_state')} is no state of this model with these networks: {error}. To "
                f"start from its weights alone, give path:pretrain_network_g instead of resume_state."
            ) from error
        saved = resume_state.get("rng")
        if not isinstance(saved, list) or len(saved) != self.opt.get("world_size", 1):
            # Of BasicSR's own pipeline, or of another number of processes: where these generators would stand is not
            # known. Not at the run's beginning, whose augmentation would come again.
            reseed(self.opt["manual_seed"], int(resume_state["iter"]), self.opt.get("rank", 0))


def build_adopted(opt: dict[str, Any], resume_state: Mapping[str, Any] | None = None) -> Any:
    """Build a model of BasicSR's, or of BasicSR's kind, and make it safe.

    Args:
        opt: Complete options; as by BasicSR's ``build_model``, they are not changed.
        resume_state: The training state that the run goes on from. Networks are then loaded from the checkpoints beside
            it, completely, whatever ``path:pretrain_network_*`` and ``path:strict_load_*`` say, but not those of
            ``path:ignore_resume_networks``. `AdoptedModel.resume_training` is still to be called.

    Returns:
        The model: of a class in front of the registered one. Methods that a model of somebody else's brings for saving
        and loading stay its own; a `RestorationModel` is left as it is.
    """
    registered = MODEL_REGISTRY.get(opt["model_type"])
    if not isinstance(registered, type) or not issubclass(registered, BaseModel):
        return build_model(opt)
    if issubclass(registered, CheckpointedModel):
        return build_model(opt)
    opt = deepcopy(opt)
    if resume_state is not None:
        _load_resumed_networks(opt, int(resume_state["iter"]))
    model = _in_front_of(registered)(opt)
    get_root_logger().info(f"Model [{registered.__name__}] is created.")
    return model


def _in_front_of(registered: type) -> type:
    """`AdoptedModel` in front of a class; what that class overrides of saving and loading comes before it."""
    own = {n: getattr(registered, n) for n in _REPLACED if getattr(registered, n) is not getattr(BaseModel, n)}
    return type(registered.__name__, (AdoptedModel, registered), {"__module__": registered.__module__, **own})


def _load_resumed_networks(opt: dict[str, Any], iteration: int) -> None:
    """Point ``path`` at the networks beside the state; BasicSR's classes load them when they are built."""
    paths = opt["path"]
    state = paths.get("resume_state")
    models = Path(state).parent.parent / "models" if state else Path(paths["models"])
    ignored = paths.get("ignore_resume_networks") or []
    for key in [k for k in opt if k.startswith("network_") and k not in ignored]:
        name = key.removeprefix("network_")
        paths[f"pretrain_{key}"] = str(models / f"net_{name}_{iteration}.pth")
        # BasicSR loads the average from `params_ema` of the same file by itself.
        paths[f"param_key_{name}"] = "params"
        paths[f"strict_load_{name}"] = True


def _warn(path: str, what: str, names: Iterable[str]) -> None:
    names = sorted(names)
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        get_root_logger().warning(f"{path}: {what}, not loaded: {', '.join(names[:_NAMED])}{more}")
