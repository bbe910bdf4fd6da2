"""A semi-supervised baseline without f_ISP's ground truths: the mean teacher."""

from __future__ import annotations

import msgspec
import torch

from semiisp_plugin.models.consistency import ConsistencyModel, mean_over
from semiisp_plugin.options import MeanTeacher
from semiisp_plugin.toolbox import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class MeanTeacherModel(ConsistencyModel):
    """Mean teacher (Tarvainen & Valpola, NeurIPS 2017), adapted to regression; a baseline, the adaptation is ours.

    Trains on the batches of a `SemiSupervisedDataset`. Its unlabelled images are the data set's unlabelled inputs and
    its pseudo inputs, whichever there are; pseudo ground truths are not used. What teacher and student see, says
    `ConsistencyModel`. The loss is the mean over the labelled samples plus a weight times the mean over the unlabelled
    ones, both of the losses that ``train`` names. The weight rises as ``exp(-5 (1 - t)^2)`` over the ramp-up.
    Validation is the teacher's.

    Options in ``train``: ``mean_teacher: {weight, rampup_iter, jitter, student_noise}``, see
    `semiisp_plugin.options.MeanTeacher`. With ``student_noise`` and ``jitter: 0`` it is noise consistency (ours).

    Logged: the losses of all samples, ``l_sup`` and ``l_consistency`` (without its weight), ``consistency_weight``;
    images of labelled and unlabelled samples, of these with the teacher's output as target.
    """

    def init_training_settings(self) -> None:
        """As for every phase, and the options of the mean teacher."""
        super().init_training_settings()
        self.mean_teacher = msgspec.convert(self.opt["train"].get("mean_teacher") or {}, MeanTeacher)
        self.consistency = self.mean_teacher

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.fit_flow()
        unlabelled = self.unlabelled()
        self.take_targets_of_the_teacher(current_iter, unlabelled)
        losses, parts = self.sample_losses(self.net_g)
        supervised, consistency = mean_over(losses, ~unlabelled), mean_over(losses, unlabelled)
        weight = self.consistency_weight(current_iter)
        trained = self.penalised(losses)
        self.step(mean_over(trained, ~unlabelled) + weight * mean_over(trained, unlabelled))
        self.record(
            **{name: value.mean() for name, value in parts.items()},
            l_sup=supervised,
            l_consistency=consistency,
            consistency_weight=torch.tensor(weight, device=self.device),
        )
