"""Phase 2: semi-supervised learning of the target network."""

from __future__ import annotations

import itertools
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from semiisp_plugin.losses.filters import KEPT_FROM, mean_real_loss, semi_supervised_loss, zero_dropped_gradient
from semiisp_plugin.losses.pseudo_filter import PseudoFilter
from semiisp_plugin.models.consistency import ConsistencyModel, mean_over
from semiisp_plugin.models.filter_record import GROUPS, FilterRecord, batch_counts
from semiisp_plugin.options import Consistency
from semiisp_plugin.options.structures import HeldOut, held_out_settings
from semiisp_plugin.toolbox import MODEL_REGISTRY, get_root_logger, register

_OF_CONSISTENCY = 3  # of `generator_of`: a stream of its own, beside those of jitter, noise and likelihood


@register(MODEL_REGISTRY)
class SemiSupervisedModel(ConsistencyModel):
    """Trains any network on batches of real and pseudo pairs, dropping pseudo pairs of high loss (Sec. 3.3, 3.4).

    The network runs once on the whole batch. Options in ``train``: ``filter``, see
    `semiisp_plugin.losses.pseudo_filter.PseudoFilter`, and, for tasks with noisy inputs,
    ``noise: {shot_variance, read_variance}`` (eq. 15, on pseudo inputs only).

    ``consistency: {weight, rampup_iter, jitter, noise}`` (ours) adds the mean loss of the data set's unlabelled inputs
    against what the network's average gives for them, see `ConsistencyModel`, times a weight that rises as
    ``exp(-5 (1 - t)^2)`` over the ramp-up. Neither the filter nor its record sees them.

    Logged: the losses of all samples, ``l_sup`` and ``l_pseudo`` (mean over real and over kept pseudo samples),
    ``pseudo/kept_ratio`` (1: all kept), ``pseudo/all_rejected`` (share of the last 100 batches that kept none),
    ``pseudo/reference`` and, of filters with a ``beta``, ``pseudo/threshold``; images and histograms of real, kept and
    dropped samples; and ``filter/rejections.csv``, see `semiisp_plugin.models.filter_record.FilterRecord`. With
    ``consistency`` also ``l_consistency`` (without its weight) and ``consistency_weight``; the losses are those of the
    pairs.
    """

    def init_training_settings(self) -> None:
        """As for every phase, the filter, and what is made of unlabelled inputs."""
        super().init_training_settings()
        if self.opt["train"].get("consistency") is not None:
            self.consistency = msgspec.convert(self.opt["train"]["consistency"], Consistency)
        settings = self.opt["train"]["filter"]
        self.filter = PseudoFilter.from_options(settings, batches_per_iteration=self.accumulate)
        self.filter_record = FilterRecord(rank=self.opt.get("rank", 0), world_size=self.opt.get("world_size") or 1)
        self.held_out: HeldOut | None = held_out_settings(settings)
        self._held_out_batches: Sequence[Mapping[str, Any]] = ()
        self._held_out_at = 0  # the iteration that the held-out loss is of

    # --- held-out pairs ----------------------------------------------------------------------------------------------

    def use_held_out(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Take the real pairs whose loss is the filter's reference (``train:filter:reference: held_out``; ours).

        Args:
            batches: Dictionaries with ``lq`` and ``gt``, ``(N, 3, H, W)``, and ``key``; the same in all processes.
        """
        self._held_out_batches = batches
        keys = [str(key) for batch in batches for key in batch.get("key", ())]
        get_root_logger().info(
            f"The filter's reference is the mean loss on {sum(len(b['lq']) for b in batches)} real pairs that are not "
            f"trained on: {', '.join(keys)}."
        )

    def update_held_out(self, current_iter: int) -> None:
        """Look at the loss on the held-out pairs, where it is time to."""
        if self.held_out is None:
            return
        known = self.filter.held_out is not None
        if known and ((current_iter - 1) % self.held_out.every or self._held_out_at == current_iter):
            return
        if not self._held_out_batches:
            raise ValueError(
                "train:filter:reference is held_out, but the model was given no held-out pairs (`use_held_out`)."
            )
        loss = self.held_out_loss()
        if not math.isfinite(loss):
            get_root_logger().warning(
                f"The loss on the held-out pairs is {loss} in iteration {current_iter}; the filter keeps "
                f"{self.filter.held_out if known else 'none, and keeps no pseudo pair'}."
            )
        self.filter.set_held_out(loss)
        self._held_out_at = current_iter

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the network, as it is and in evaluation mode, on the held-out pairs; the same in all processes.

        Each process looks at a share of them.
        """
        batch_at_hand = self.lq, self.gt
        total = torch.zeros(2, dtype=torch.float64, device=self.device)
        try:
            with self.in_evaluation() as net:
                for batch in self._held_out_batches[self.opt.get("rank", 0) :: self.opt.get("world_size") or 1]:
                    self.lq, self.gt = (batch[name].to(self.device, non_blocking=True) for name in ("lq", "gt"))
                    losses, _ = self.sample_losses(net)
                    total += torch.stack((losses.sum(), losses.new_tensor(len(losses))))
        finally:
            self.lq, self.gt = batch_at_hand
        if self.opt.get("dist"):
            torch.distributed.all_reduce(total)
        return float(total[0] / total[1])

    # --- training ----------------------------------------------------------------------------------------------------

    def of_pairs(self, values: Tensor) -> Tensor:
        """Of values of all samples, ``(N, ...)``, those of the real and pseudo pairs: not of unlabelled inputs."""
        if not bool(self.is_unlabelled.any()):
            return values
        return values[torch.nonzero(~self.is_unlabelled).flatten().to(values.device, non_blocking=True)]

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.fit_flow()
        self.update_held_out(current_iter)
        self.add_noise(current_iter, 1)
        self.take_targets_of_the_teacher(current_iter, self.is_unlabelled, _OF_CONSISTENCY)
        losses, parts = self.sample_losses(self.net_g)
        detached, is_pseudo = self.of_pairs(losses.detach()), self.of_pairs(self.is_pseudo)
        mean_real = mean_real_loss(detached, is_pseudo)
        if self.opt.get("dist"):
            # The paper does not say whether L_r is of one GPU or of all: of all, so that the batch is what counts.
            torch.distributed.all_reduce(mean_real)
            mean_real /= self.opt["world_size"]
        in_warmup = self.filter.in_warmup
        weights, threshold, kept_ratio, reference = self.filter(detached, is_pseudo, reference=mean_real)
        unlabelled = self.is_unlabelled.to(self.device, non_blocking=True)
        self._weights = torch.ones_like(losses).detach().masked_scatter(~unlabelled, weights)
        if self.output is not None:
            zero_dropped_gradient(self.output, self._weights)
        trained = self.penalised(losses)
        loss = semi_supervised_loss(self.of_pairs(trained), weights)
        pseudo = is_pseudo.to(self.device, non_blocking=True)
        counts = batch_counts(weights, pseudo)
        share = share_of_pseudo = 1.0  # of this process in the means over all, times the number of processes
        if self.opt.get("dist"):
            # The parallel wrapper averages the gradients of processes that may have kept different numbers of samples;
            # eq. 13 is the mean over all samples kept, each with its weight. So are the logged means.
            mine = self.opt["world_size"] * counts[:2]
            torch.distributed.all_reduce(counts)
            share, share_of_pseudo = mine / torch.where(counts[:2] > 0, counts[:2], 1)
            loss = loss * share
        if self.consistency is not None:
            weight = self.consistency_weight(current_iter)
            loss = loss + weight * mean_over(trained, unlabelled)
            self.record(
                l_consistency=mean_over(losses, unlabelled), consistency_weight=torch.tensor(weight, device=self.device)
            )
        self.step(loss)

        of_pseudo = torch.where(pseudo, weights, 0)
        self.record(
            **{n: semi_supervised_loss(self.of_pairs(v.detach()), weights) * share for n, v in parts.items()},
            l_sup=mean_real,
            # Of a batch that keeps none there is no such mean; `get_current_log` leaves it out.
            l_pseudo=torch.where(counts[1] > 0, semi_supervised_loss(detached, of_pseudo) * share_of_pseudo, torch.nan),
            pseudo__kept_ratio=kept_ratio,
            pseudo__reference=reference,
            **({} if self.filter.beta is None else {"pseudo__threshold": threshold}),
        )
        keys = self.keys and list(itertools.compress(self.keys, (~self.is_unlabelled).tolist()))
        self.filter_record.add(
            keys,
            is_pseudo,
            detached,
            weights,
            reference=reference,
            counts=counts,
            counted=not in_warmup,
        )

    # --- logging -----------------------------------------------------------------------------------------------------

    def get_current_log(self) -> OrderedDict[str, float]:
        """As for every phase, and what the filter did over its window."""
        if self._window:
            self.record(pseudo__all_rejected=torch.tensor(self.filter_record.all_rejected(), device=self.device))
        return super().get_current_log()

    def image_groups(self) -> dict[str, Tensor]:
        """Real, kept pseudo and dropped pseudo samples, and unlabelled ones."""
        pseudo, unlabelled = self.is_pseudo.to(self.device), self.is_unlabelled.to(self.device)
        kept = self._weights >= KEPT_FROM
        groups = dict(zip(GROUPS, (~pseudo & ~unlabelled, pseudo & kept, pseudo & ~kept), strict=True))
        return groups if self.consistency is None else {**groups, "unlabelled": unlabelled}

    def log_histograms(self, tb_logger: Any, current_iter: int) -> None:
        """Write the losses of real, kept and dropped samples since the last call."""
        losses = self.filter_record.histograms()
        for name in GROUPS:
            if tb_logger and len(losses[name]):
                tb_logger.add_histogram(f"filter_losses/{name}", losses[name], current_iter)

    def write_records(self) -> None:
        """Write ``filter/rejections.csv`` into the run's folder; by all processes, before a checkpoint is saved."""
        self.filter_record.write(os.path.join(self.opt["path"]["experiments_root"], "filter"))

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        """Also the filter's counts and reference, and its record."""
        return {
            **super().extra_state(),
            "filter": self.filter.state_dict(),
            "record": self.filter_record.state_dict(),
            "held_out_at": self._held_out_at,
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        super().load_extra_state(state)
        self.filter.load_state_dict(state["filter"])
        self.filter_record.load_state_dict(state["record"])
        self._held_out_at = int(state["held_out_at"])
