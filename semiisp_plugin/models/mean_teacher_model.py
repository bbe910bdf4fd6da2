"""A semi-supervised baseline without f_ISP's ground truths: the mean teacher."""

from __future__ import annotations

import msgspec

from semiisp_plugin.models.consistency import TeacherModel
from semiisp_plugin.options import MeanTeacher
from semiisp_plugin.toolbox import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class MeanTeacherModel(TeacherModel):
    """Mean teacher (Tarvainen & Valpola, NeurIPS 2017), adapted to regression; a baseline, the adaptation is ours.

    Trains on the batches of a `SemiSupervisedDataset`. Its unlabelled images are the data set's unlabelled inputs and
    its pseudo inputs, whichever there are; pseudo ground truths are not used. What teacher and student see, says
    `ConsistencyModel`; the loss, and what is logged, `TeacherModel`. The weight rises as ``exp(-5 (1 - t)^2)`` over
    the ramp-up. Validation is the teacher's.

    Options in ``train``: ``mean_teacher: {weight, rampup_iter, jitter, student_noise}``, see
    `semiisp_plugin.options.MeanTeacher`. With ``student_noise`` and ``jitter: 0`` it is noise consistency (ours).
    """

    def init_training_settings(self) -> None:
        """As for every phase, and the options of the mean teacher."""
        super().init_training_settings()
        self.mean_teacher = msgspec.convert(self.opt["train"].get("mean_teacher") or {}, MeanTeacher)
        self.consistency = self.mean_teacher
