"""A semi-supervised baseline without f_ISP's ground truths: the mean teacher."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel
from semiisp_plugin.options import MeanTeacher
from semiisp_plugin.toolbox import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class MeanTeacherModel(PseudoInputsModel):
    """Mean teacher (Tarvainen & Valpola, NeurIPS 2017), adapted to regression; a baseline, the adaptation is ours.

    Trains on the batches of a `SemiSupervisedDataset`, whose pseudo inputs are its unlabelled images; their pseudo
    ground truths are not used. The teacher is the exponential moving average of the student's weights
    (``train:ema_decay``, which must be above 0) in evaluation mode. It sees an unlabelled image as it is, the student
    with brightness and saturation changed (`photometric_jitter`), and the student is to give what the teacher gives.
    The loss is the mean over the labelled samples plus a weight times the mean over the unlabelled ones, both of the
    losses that ``train`` names. The weight rises as ``exp(-5 (1 - t)^2)`` over the ramp-up.

    While the average is young its decay is ``(1 + i) / (10 + i)`` in iteration i, if that is less than ``ema_decay``:
    otherwise the teacher would stay near the untrained network for long. Validation is the teacher's.

    Options in ``train``: ``mean_teacher: {weight, rampup_iter, jitter}``, see `semiisp_plugin.options.MeanTeacher`.

    Logged: the losses of all samples, ``l_sup`` and ``l_consistency`` (without its weight), ``consistency_weight``;
    images of labelled and unlabelled samples, of these with the teacher's output as target.
    """

    def init_training_settings(self) -> None:
        """As for every phase, and the options of the mean teacher."""
        super().init_training_settings()
        self.mean_teacher = msgspec.convert(self.opt["train"].get("mean_teacher") or {}, MeanTeacher)
        self._iteration = 0

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self._iteration = current_iter
        self.fit_flow()
        self.take_targets_of_the_teacher(current_iter)
        losses, parts = self.sample_losses(self.net_g)
        unlabelled = self.is_pseudo.to(self.device)
        supervised, consistency = mean_over(losses, ~unlabelled), mean_over(losses, unlabelled)
        weight = self.mean_teacher.weight * sigmoid_rampup(current_iter, self.mean_teacher.rampup_iter)
        trained = self.penalised(losses)
        self.step(mean_over(trained, ~unlabelled) + weight * mean_over(trained, unlabelled))
        self.record(
            **{name: value.mean() for name, value in parts.items()},
            l_sup=supervised,
            l_consistency=consistency,
            consistency_weight=torch.tensor(weight, device=self.device),
        )

    @torch.no_grad()
    def take_targets_of_the_teacher(self, current_iter: int) -> None:
        """Put the teacher's outputs in place of the pseudo ground truths, and jitter the student's inputs."""
        chosen = torch.nonzero(self.is_pseudo.to(self.device)).flatten()
        if len(chosen) == 0:
            return
        generator = self.generator_of(current_iter, 1)
        clean = self.lq[chosen]
        taught = self.net_g_ema(clean).clamp(0, 1).to(self.gt.dtype)
        self.lq, self.gt = self.lq.clone(), self.gt.clone()  # on a CPU they are the caller's batch
        if taught.shape[1:] == self.gt.shape[1:]:  # otherwise the student's is wrong, too, and sample_losses says how
            self.gt[chosen] = taught
        self.lq[chosen] = photometric_jitter(clean, self.mean_teacher.jitter, generator)

    def model_ema(self, decay: float = 0.999) -> None:
        """As for every phase, with a smaller decay at first."""
        super().model_ema(min(decay, (1 + self._iteration) / (10 + self._iteration)))

    def image_groups(self) -> dict[str, Tensor]:
        """Labelled and unlabelled samples."""
        unlabelled = self.is_pseudo.to(self.device)
        return {"labelled": ~unlabelled, "unlabelled": unlabelled}


def sigmoid_rampup(iteration: int, rampup_iter: int) -> float:
    """``exp(-5 (1 - t)^2)`` with t from 0 to 1 over the first ``rampup_iter`` iterations, then 1."""
    t = min(1.0, iteration / rampup_iter) if rampup_iter > 0 else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def mean_over(losses: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen samples' losses; 0 if there are none.

    Args:
        losses: ``(N,)``.
        chosen: ``(N,)`` bool.
    """
    return torch.where(chosen, losses, losses.new_zeros(())).sum() / chosen.sum().clamp_min(1)
