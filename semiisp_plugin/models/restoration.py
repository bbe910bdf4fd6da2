"""What the models of all three phases share: networks, losses, optimiser, schedule, logging, checkpoints.

Built on BasicSR's `SRModel`. Changed: any torch optimiser, a cosine schedule with a floor, mixed precision,
compilation, gradient accumulation and clipping, steps that are not finite are skipped, losses that can be taken per
sample, logs that are means over the print window, validation in batches and on all processes, checkpoints that are
written beside their place and then renamed, and messages that say what to fix.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.losses.per_sample import full_precision, per_sample
from semiisp_plugin.metrics import prepare_metric
from semiisp_plugin.models.checkpointed import CheckpointedModel
from semiisp_plugin.models.learning_rate import schedule_factor
from semiisp_plugin.models.likelihood import Likelihood
from semiisp_plugin.models.output_penalties import ActivityPenalty, DeepSupervision, OutputPenalty, TablePenalty
from semiisp_plugin.models.own_loss import OwnLoss
from semiisp_plugin.models.random_state import iteration_generator
from semiisp_plugin.models.step_guard import Statistics, StepGuard, gradient_norm
from semiisp_plugin.models.validation import validate
from semiisp_plugin.options import OptionError
from semiisp_plugin.options.structures import Options
from semiisp_plugin.toolbox import SRModel, build_loss, build_network, get_root_logger

LOSS_KEYS = {"pixel_opt": "l_pix", "perceptual_opt": "l_percep", "ssim_opt": "l_ssim"}
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_GRID_IMAGES = 4
_OF_LIKELIHOOD = 2  # of `generator_of`: a stream of its own, beside those of jitter and noise


@contextmanager
def naming(section: str) -> Iterator[None]:
    """Turn what a class raises about the values of its section into an error that names the section."""
    try:
        yield
    except (TypeError, IndexError, AttributeError, AssertionError) as error:
        raise ValueError(f"{section}: a value is not usable: {error or type(error).__name__}.") from error


class RestorationModel(CheckpointedModel, SRModel):  # type: ignore[misc]  # BasicSR is untyped
    """Base of the three phases' models; see the module's docstring.

    Args:
        opt: Options as `semiisp_plugin.options.load_options` returns them.

    Attributes:
        options_struct: What option files of the model may say. A model of your own that reads more names a structure
            derived from this one.
    """

    options_struct: ClassVar[type[Options]] = Options

    def __init__(self, opt: dict[str, Any]) -> None:
        # SRModel's constructor is bypassed: it builds one network and loads weights without a useful message.
        super(SRModel, self).__init__(opt)
        self._window: dict[str, list[Tensor]] = {}
        self.iteration = 0
        self.micro_batch = 0  # of this iteration, see `accumulating`
        self.show_progress = False  # a bar in validation
        self.latest_metrics: dict[str, dict[str, float]] = {}  # of the last validation, by data set
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext  # see `validate`
        self.loop_state: dict[str, Any] = {}  # what the training loop wants to find in the training state
        train = self.opt.get("train") or {}
        self.accumulate = int(train.get("accumulate") or 1)
        self.compiled = bool(self.is_train and train.get("compile"))
        self.channels_last = bool(train.get("channels_last"))
        self.amp_dtype = PRECISIONS[train.get("precision") or "fp32"]
        for settings in ((self.opt.get("val") or {}).get("metrics") or {}).values():
            prepare_metric(settings)  # what is missing is better found out now than at the first validation
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
            self.load_network(net, paths[weights_key], paths.get("strict_load_g", True), paths.get("param_key_g"))
        parameters = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f"{key}: {type(net).__name__} with {parameters:,d} parameters")
        return self.model_to_device(net)

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """To the device, and into DistributedDataParallel where there are several processes; CPU included."""
        net = net.to(self.device)
        if self.channels_last:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        if self.compiled:
            mode = self.opt["train"]["compile"]
            net.compile(mode=None if mode is True else mode)  # in place: the names of the weights stay
        if self.opt.get("dist"):
            ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return nn.parallel.DistributedDataParallel(net, device_ids=ids, find_unused_parameters=unused)
        return net

    # --- training --------------------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Losses, EMA, optimiser, schedule."""
        train = self.opt["train"]
        self.net_g.train()
        self.ema_decay = float(train["ema_decay"])
        if self.ema_decay > 0:
            self.net_g_ema = self.copy_of(self.net_g)
        self.guard = StepGuard(int(train["nonfinite_limit"]))
        self.statistics = Statistics(self.updated_networks())
        self._drop_update = False
        self._sample_losses: Tensor | None = None
        self._flow_is_fitted = False
        # Without fp16 it does nothing: bf16 has the range of float32.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        # Built without reduction: every loss is taken per sample, and averaged by the model.
        self.losses = nn.ModuleDict()
        for key, name in LOSS_KEYS.items():
            if train.get(key):
                with naming(f"train:{key}"):
                    self.losses[name] = build_loss({**train[key], "reduction": "none"}).to(self.device)
        self.likelihood: Likelihood | None = None
        if train.get("likelihood") is not None:
            self.likelihood = Likelihood(self.get_bare_model(self.net_g), **train["likelihood"])
        self.own_loss: OwnLoss | None = None
        if train.get("own_loss") is not None:
            self.own_loss = OwnLoss(self.get_bare_model(self.net_g), **train["own_loss"])
        networks = dict(zip(("network_g", "network_global"), self.trained_networks(), strict=False))
        self.penalties: dict[str, OutputPenalty] = {}
        if train.get("activity_penalty"):
            self.penalties["l_penalty"] = ActivityPenalty(networks, **train["activity_penalty"])
        if train.get("deep_supervision"):
            self.penalties["l_deep"] = DeepSupervision(networks, **train["deep_supervision"])
        if train.get("table_penalty") is not None:
            self.penalties["l_tables"] = TablePenalty(networks, **train["table_penalty"])
        self.setup_optimizers()
        self.setup_schedulers()

    def copy_of(self, net: nn.Module) -> nn.Module:
        """An uncompiled copy of a network, for averages: in evaluation mode, without gradients."""
        bare = self.get_bare_model(net)
        compiled, bare._compiled_call_impl = bare._compiled_call_impl, None  # it cannot be copied
        try:
            return deepcopy(bare).eval().requires_grad_(False)
        finally:
            bare._compiled_call_impl = compiled

    def trained_networks(self) -> list[nn.Module]:
        """The networks that ``train:optim_g`` updates."""
        return [self.net_g]

    def updated_networks(self) -> list[nn.Module]:
        """Those, and what a model trains beside them with an optimiser of its own."""
        return self.trained_networks()

    def setup_optimizers(self) -> None:
        """One optimiser for all trained networks."""
        self.optimizer_g = self.build_optimizer("train:optim_g", self.opt["train"]["optim_g"], self.trained_networks())
        self.optimizers.append(self.optimizer_g)

    def build_optimizer(
        self, section: str, settings: Mapping[str, Any], networks: Iterable[nn.Module]
    ) -> torch.optim.Optimizer:
        """An optimiser of any torch.optim class, of all of the networks' parameters that are trained.

        Args:
            section: For messages.
            settings: ``type``, and the class's arguments.
            networks: Whose.
        """
        arguments = dict(settings)
        optimiser = getattr(torch.optim, arguments.pop("type"))
        parameters = [p for net in networks for p in net.parameters() if p.requires_grad]
        with naming(section):
            built: torch.optim.Optimizer = optimiser(parameters, **arguments)
        return built

    def setup_schedulers(self) -> None:
        """The schedule of ``train:scheduler``, see `semiisp_plugin.models.learning_rate`."""
        settings = self.opt["train"].get("scheduler") or {"type": "Constant"}
        groups = [group for optimiser in self.optimizers for group in optimiser.param_groups]
        for group in groups:
            group["initial_lr"] = group["lr"]
        self.schedule = schedule_factor(settings, int(self.opt["train"]["total_iter"]), float(groups[0]["lr"]))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """The schedule, or BasicSR's linear warm-up; an iteration begins."""
        self.iteration = current_iter
        for group in (g for optimiser in self.optimizers for g in optimiser.param_groups):
            peak = group["initial_lr"]
            warming_up = current_iter < warmup_iter
            group["lr"] = peak / warmup_iter * current_iter if warming_up else peak * self.schedule(current_iter - 1)

    @contextmanager
    def accumulating(self, micro_batch: int) -> Iterator[None]:
        """Surrounds `feed_data` and `optimize_parameters` for one of the batches of an iteration.

        With ``train:accumulate: k`` an iteration takes k batches, and their mean gradient, one after the other, in the
        memory of one.

        Args:
            micro_batch: Its number, 0 ... accumulate - 1; with the last, the weights are updated.
        """
        self.micro_batch = micro_batch
        with ExitStack() as stack:
            if micro_batch + 1 < self.accumulate and self.opt.get("dist"):
                for net in self.updated_networks():
                    stack.enter_context(net.no_sync())  # type: ignore[operator]  # they are DistributedDataParallel
            yield

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Take a batch ``{lq, gt, is_pseudo, is_unlabelled, key}``; validation may lack all but ``lq``."""
        self.lq = data["lq"].to(self.device, non_blocking=True)
        if "gt" in data:
            self.gt = data["gt"].to(self.device, non_blocking=True)
        none = torch.zeros(len(self.lq), dtype=torch.bool)
        self.is_pseudo: Tensor = data.get("is_pseudo", none)
        self.is_unlabelled: Tensor = data.get("is_unlabelled", none)  # their ``gt`` is no target
        self.keys = data.get("key")
        if self.is_train:
            self.statistics.keep()
            for penalty in self.penalties.values():
                penalty.clear()
            if self.micro_batch == 0:
                # Not at the end of a step: with the gradients, the C library would give back the memory of the whole
                # step to the system, and fetch it page by page in the next one.
                for optimiser in self.optimizers:
                    optimiser.zero_grad(set_to_none=True)

    def predict(self, net: Callable[..., Any], x: Tensor, *more: Tensor) -> Tensor:
        """The network's output for ``x`` in float32, computed in the precision of ``train:precision``.

        Args:
            net: A trained network, parallel wrapper included.
            x: ``(N, C, H, W)``.
            more: What else the network takes.

        Returns:
            ``(N, C', H', W')``.
        """
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.amp_dtype is None:
            return full_precision(net(x, *more))
        with torch.autocast(self.device.type, self.amp_dtype):
            output = net(x, *more)
        return full_precision(output)

    def draw_number(self, current_iter: int) -> int:
        """Number of this batch, for what is drawn at random for it: each batch of a run has its own."""
        return (current_iter - 1) * self.accumulate + self.micro_batch + 1

    def generator_of(self, current_iter: int, stream: int = 0) -> torch.Generator:
        """A generator for this batch and process, on the model's device; each stream has its own."""
        stream += self.opt.get("rank", 0)
        return iteration_generator(self.opt["manual_seed"], self.draw_number(current_iter), self.device, stream)

    def jitter_inputs(self, current_iter: int) -> None:
        """Multiply brightness and saturation of the inputs by random factors, as ``train:photometric_jitter`` says."""
        strength = self.opt["train"].get("photometric_jitter")
        if strength:
            self.lq = photometric_jitter(self.lq, float(strength), self.generator_of(current_iter))

    def fit_flow(self) -> None:
        """Before the first step with ``train:likelihood``: fit the flow to the batch, unless it is a trained one.

        It is fitted to the samples that have a target.
        """
        if self.likelihood is None or self._flow_is_fitted:
            return
        self._flow_is_fitted = True
        net = self.get_bare_model(self.net_g)
        lq, gt = self.lq, self.gt
        if bool(self.is_unlabelled.any()):
            labelled = torch.nonzero(~self.is_unlabelled).flatten().to(self.device)
            lq, gt = lq[labelled], gt[labelled]
        if not self.likelihood.fit(net, lq, gt, *self._generators_of_likelihood()):
            return
        if self.opt.get("dist"):  # each process has fitted its own to its part of the batch
            for parameter in net.parameters():
                torch.distributed.broadcast(parameter.data, 0)
        if self.ema_decay > 0:
            self.net_g_ema.load_state_dict(net.state_dict())

    def _generators_of_likelihood(self) -> tuple[torch.Generator, torch.Generator]:
        """Of this process, and of all."""
        seed, number = self.opt["manual_seed"], self.draw_number(self.iteration)
        of_batch = iteration_generator(seed, number, torch.device("cpu"), _OF_LIKELIHOOD)
        return self.generator_of(self.iteration, _OF_LIKELIHOOD), of_batch

    def sample_losses(self, net: Callable[..., Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a network on the batch: the loss of each sample, ``(N,)``, and its parts by name.

        ``self.output`` is its output then, or None where no loss looks at it.

        Args:
            net: A trained network, parallel wrapper included.

        Raises:
            OptionError: The network's output has another size than the target.
        """
        parts: dict[str, Tensor] = {}
        self.output: Tensor | None = None
        if len(self.losses):
            self.output = output = self.predict(net, self.lq)
            if output.shape != self.gt.shape:
                raise OptionError(
                    f"network_g ({type(self.get_bare_model(self.net_g)).__name__}) turns inputs of "
                    f"{tuple(self.lq.shape)} into {tuple(output.shape)}; the targets are {tuple(self.gt.shape)}. Take "
                    f"a network that keeps the size (for BasicSR's super-resolution ones: upscale: 1)."
                )
            parts = {name: per_sample(loss(output, self.gt)) for name, loss in self.losses.items()}
        if self.likelihood is not None:
            run = partial(self.predict, net)
            parts["l_nll"] = self.likelihood(run, self.lq, self.gt, *self._generators_of_likelihood())
        if self.own_loss is not None:
            generator = self.generator_of(self.iteration, _OF_LIKELIHOOD)
            parts["l_own"] = self.own_loss(partial(self.predict, net), self.lq, self.gt, generator)
        losses = torch.stack(tuple(parts.values())).sum(0)
        self._sample_losses = losses.detach()
        return losses, parts

    @contextmanager
    def in_evaluation(self) -> Iterator[Callable[..., Any]]:
        """The network to be trained as it is, in evaluation mode for so long; not in its parallel wrapper.

        Not compiled either: it would be, once more, for batches of another size and another mode.
        """
        net = self.get_bare_model(self.net_g)
        was_training = net.training
        net.eval()
        try:
            yield net.forward if self.compiled else net
        finally:
            net.train(was_training)

    def penalised(self, losses: Tensor) -> Tensor:
        """The loss of each sample with what ``train:activity_penalty`` and its like add to it.

        They are logged as ``l_penalty``, ``l_deep`` (``deep_supervision``) and ``l_tables`` (``table_penalty``).

        Called after the forward pass and with the losses that the step is made of. What a filter looks at, and what is
        logged as the losses, is without it: it measures the network and not how well a sample is learned.

        Args:
            losses: ``(N,)``.

        Returns:
            ``(N,)``.
        """
        for name, penalty in self.penalties.items():
            values = penalty.take(self.gt)
            self.record(**{name: values.mean()})
            losses = losses + values
        return losses

    def step(self, loss: Tensor) -> None:
        """Backward, clip, update, EMA; nothing but a warning where the loss or the gradient is not finite.

        All optimisers step, or none does.

        Args:
            loss: 0-dim; the sum of all that the optimisers are to lower.

        Raises:
            FloatingPointError: Too many steps were skipped (``train:nonfinite_limit``); the message names the images.
        """
        self.scaler.scale(loss / self.accumulate if self.accumulate > 1 else loss).backward()
        finite = torch.isfinite(loss.detach())
        if self.micro_batch + 1 < self.accumulate:
            # Looked at now, while the batch's keys are known; a bad part spoils the update of all.
            if not self._of_all_processes(finite):
                self._skip(loss)
            return
        norms = []
        for optimiser in self.optimizers:
            self.scaler.unscale_(optimiser)
            norms.append(gradient_norm(p for group in optimiser.param_groups for p in group["params"]))
        norm = torch.stack(norms).sum()  # finite where all are
        # With fp16 a gradient that is not finite is no accident: the scaler skips the step and lowers its scale.
        both = finite if self._overflow_is_expected() else finite & torch.isfinite(norm)
        usable = self._of_all_processes(both)
        if usable and not self._drop_update:
            clip = self.opt["train"].get("grad_clip")
            if clip:
                for net in self.updated_networks():  # each as if it were trained alone
                    nn.utils.clip_grad_norm_(net.parameters(), float(clip))
            if not self.scaler.is_enabled() or bool(torch.isfinite(norm)):  # it would look at each optimiser alone
                for optimiser in self.optimizers:
                    self.scaler.step(optimiser)
            self.scaler.update()
            if self.ema_decay > 0:
                self.model_ema(self.ema_decay)
        else:
            if self.scaler.is_enabled():
                self.scaler.update()
            if not usable:
                self._skip(loss, norm)
        self._drop_update = False
        self.record(grad_norm=norms[0])

    def _overflow_is_expected(self) -> bool:
        """Whether the scaler still has room to lower its scale, after which gradients may be finite."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    def _of_all_processes(self, value: Tensor) -> bool:
        """Whether something holds in every process: one that skips alone would leave the others waiting."""
        if self.opt.get("dist"):
            value = value.float()
            torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MIN)
        return bool(value)

    def _skip(self, loss: Tensor, norm: Tensor | None = None) -> None:
        """Undo what a bad batch has done to running statistics, and name its images, of all processes."""
        self.statistics.put_back()
        if self._drop_update:  # because of an earlier batch of this iteration, which was named
            return
        self._drop_update = True
        loss = loss.detach()
        keys = [str(k) for k in self.keys or ()]
        bad = [] if self._sample_losses is None else (~torch.isfinite(self._sample_losses)).tolist()
        suspects = [k for k, is_bad in zip(keys, bad, strict=False) if is_bad]
        if norm is None or not math.isfinite(float(loss)):
            what = f"the loss was {float(loss)}"
        else:
            what = f"the loss was {float(loss):.4g}, but the gradient's norm {float(norm)}"
        if self.opt.get("dist"):
            gathered: list[Any] = [None] * self.opt["world_size"]
            torch.distributed.all_gather_object(gathered, (keys, suspects))
            keys, suspects = ([k for part in gathered for k in part[i]] for i in (0, 1))
        self.guard.skip(self.iteration, what, keys, suspects)

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Exponential moving average of parameters; buffers are copied (BasicSR leaves them at their start)."""
        net = self.get_bare_model(self.net_g)
        for average, value in zip(self.net_g_ema.parameters(), net.parameters(), strict=True):
            average.lerp_(value, 1 - decay)
        for kept, buffer in zip(self.net_g_ema.buffers(), net.buffers(), strict=True):
            kept.copy_(buffer)

    def extra_state(self) -> dict[str, Any]:
        """The gradient scaler and the guard."""
        return {"scaler": self.scaler.state_dict(), "guard": self.guard.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.guard.load_state_dict(state["guard"])

    # --- logging ---------------------------------------------------------------------------------------------

    def record(self, **values: Tensor) -> None:
        """Remember 0-dim values of this iteration; `get_current_log` returns their means since it was last asked."""
        for name, value in values.items():
            self._window.setdefault(name.replace("__", "/"), []).append(value.detach())

    def get_current_log(self) -> OrderedDict[str, float]:
        """Means over the print window, over all processes; the same keys in every process.

        Values of skipped steps, which are not finite, are left out; a window of nothing else is NaN.
        """
        means = {k: _finite_mean(torch.stack(v).float()) for k, v in self._window.items()}
        self._window.clear()
        if not means:
            return OrderedDict()
        if "grad_norm" in means:
            means["grad_norm"] = means.pop("grad_norm")  # losses come first
        return OrderedDict(self.reduce_loss_dict(means))

    def image_groups(self) -> dict[str, Tensor]:
        """Which samples of the current batch go into which grid, as boolean masks ``(N,)`` on the model's device."""
        return {"batch": torch.ones(len(self.lq), dtype=torch.bool, device=self.device)}

    def output_to_show(self) -> Tensor:
        """The output for the current batch; where training did without (``train:likelihood`` alone), that of `test`."""
        if self.output is None:
            self.test()
        assert self.output is not None
        return self.output

    @torch.no_grad()
    def log_images(self, tb_logger: Any, current_iter: int) -> None:
        """Write grids of the current batch to TensorBoard: a sample a column; rows input, output, target."""
        output = self.output_to_show()
        for name, chosen in self.image_groups().items():
            columns = int(chosen.sum().clamp_max(_GRID_IMAGES))
            if columns:
                rows = [t[chosen][:columns].detach().float().clamp(0, 1) for t in (self.lq, output, self.gt)]
                tb_logger.add_image(f"images/{name}", make_grid(torch.cat(rows).cpu(), nrow=columns), current_iter)

    def log_histograms(self, tb_logger: Any, current_iter: int) -> None:
        """Write distributions to TensorBoard; called in every process, ``tb_logger`` is None in all but one."""

    def write_records(self) -> None:
        """Write what a model keeps a record of into the run's folder; called in every process."""

    @torch.no_grad()
    def test(self) -> None:
        """Run the network, or its average, on the batch of `feed_data`.

        Not through the parallel wrapper: one process validates alone, and the wrapper of a network with buffers would
        wait for the others to exchange them.
        """
        net = self.validated_network()
        was_training = net.training
        net.eval()
        # Not compiled: images of every size would be compiled for. In float32, as `basicsr test` does.
        self.output = net.forward(self.lq) if self.compiled else net(self.lq)
        net.train(was_training)

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """See `semiisp_plugin.models.validation.validate`; called in every process."""
        if self.opt.get("dist"):
            # In training each process has running statistics of its own; those of the first one are saved.
            for buffer in self.validated_network().buffers():
                torch.distributed.broadcast(buffer, 0)
        validate(self, dataloader, current_iter, tb_logger, save_img, self.waiting)
        if self.opt["val"].get("metrics"):
            self.keep_best(dataloader.dataset.opt["name"], current_iter)

    def validated_network(self) -> nn.Module:
        """The one that `test` runs."""
        return self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)


def _finite_mean(values: Tensor) -> Tensor:
    """Mean of the values that are finite; NaN if none is."""
    finite = torch.isfinite(values)
    return torch.where(finite, values, 0).sum() / finite.sum()
