"""Learning from the network's own average, the teacher, on samples without a target: what two models share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel, noisy
from semiisp_plugin.options import Consistency


class ConsistencyModel(PseudoInputsModel):
    """Base of models whose student is to give what the teacher gives (Tarvainen & Valpola, NeurIPS 2017).

    The teacher is the exponential moving average of the student's weights (``train:ema_decay``, which must be above 0)
    in evaluation mode. It sees a sample as it is, the student with brightness and saturation changed
    (`photometric_jitter`), both with a draw of their own of the noise of eq. 15 where `Consistency.noise` asks for it:
    noise does not change what the image should become.

    While the average is young its decay is ``(1 + i) / (10 + i)`` in iteration i, if that is less than ``ema_decay``:
    otherwise the teacher would stay near the untrained network for long.

    Attributes:
        consistency: What the option file says of it; None where it does not ask for it, and nothing here happens.
    """

    def init_training_settings(self) -> None:
        """As for every phase; derived classes set `consistency`."""
        super().init_training_settings()
        self.consistency: Consistency | None = None
        self._iteration = 0

    @torch.no_grad()
    def take_targets_of_the_teacher(self, current_iter: int, samples: Tensor, stream: int = 1) -> None:
        """Put the teacher's outputs in place of the targets of some samples, and disturb what the student sees of them.

        Args:
            current_iter: The iteration.
            samples: ``(N,)`` bool, which ones.
            stream: Of `generator_of`.
        """
        self._iteration = current_iter
        chosen = torch.nonzero(samples).flatten()
        if self.consistency is None or len(chosen) == 0:
            return
        chosen = chosen.to(self.device, non_blocking=True)
        generator = self.generator_of(current_iter, stream)
        clean = self.lq[chosen]
        of_student = photometric_jitter(clean, self.consistency.jitter, generator)
        if self.consistency.noise is not None:
            of_student, clean = (noisy(image, self.consistency.noise, generator) for image in (of_student, clean))
        taught = self.labels(clean, chosen, generator).to(self.gt.dtype)
        self.lq, self.gt = self.lq.clone(), self.gt.clone()  # on a CPU they are the caller's batch
        if taught.shape[1:] == self.gt.shape[1:]:  # otherwise the student's is wrong, too, and sample_losses says how
            self.gt[chosen] = taught
        self.lq[chosen] = of_student

    def labels(self, images: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """What the student is to give for some samples of the batch: here the teacher's outputs. Without gradient.

        Args:
            images: Their inputs as the teacher sees them, ``(M, C, H, W)``.
            chosen: Their numbers in the batch, ``(M,)``, in rising order.
            generator: For what is drawn.

        Returns:
            ``(M, C, H, W)`` in [0, 1]; of another size where the network changes it.
        """
        taught: Tensor = self.net_g_ema(images)
        return taught.clamp(0, 1)

    def consistency_weight(self, current_iter: int) -> float:
        """The weight of the samples that the teacher gave targets."""
        if self.consistency is None:
            return 0.0
        return self.consistency.weight * sigmoid_rampup(current_iter, self.consistency.rampup_iter)

    def gathered(self, mine: Any) -> list[Any]:
        """What each process has of something that can be pickled, in one order; called in all of them."""
        every = [mine]
        if self.opt.get("dist"):
            every = [None] * self.opt["world_size"]
            torch.distributed.all_gather_object(every, mine)
        return every

    def model_ema(self, decay: float = 0.999) -> None:
        """As for every phase; the decay of a teacher is smaller at first."""
        young = (1 + self._iteration) / (10 + self._iteration)
        super().model_ema(decay if self.consistency is None else min(decay, young))


class TeacherModel(ConsistencyModel):
    """Base of models whose unlabelled images are unlabelled inputs and pseudo inputs, all with targets of the teacher.

    The loss is the mean over the labelled samples plus a weight, which rises over the ramp-up, times the mean over the
    unlabelled ones, both of the losses that ``train`` names. Pseudo ground truths are no targets.

    Logged: the losses of all samples, ``l_sup`` and ``l_consistency`` (of the samples that were taught, without its
    weight), ``consistency_weight``; images of labelled and unlabelled samples, of these with what they were taught.
    """

    def taught(self, unlabelled: Tensor) -> Tensor:
        """Those of them, ``(N,)`` bool, whose loss counts; that of the others is 0 in the mean."""
        return unlabelled

    def more_loss(self, current_iter: int, unlabelled: Tensor) -> Tensor | float:
        """What is added to the loss; called after the student has seen the batch."""
        return 0.0

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.is_unlabelled = self.is_unlabelled | self.is_pseudo
        self.fit_flow()
        self.add_noise(current_iter)
        unlabelled = self.unlabelled()
        self.take_targets_of_the_teacher(current_iter, unlabelled)
        taught = self.taught(unlabelled)
        losses, parts = self.sample_losses(self.net_g)
        weight = self.consistency_weight(current_iter)
        trained = self.penalised(losses)
        loss = mean_over(trained, ~unlabelled) + weight * mean_over(trained, taught, unlabelled)
        self.step(loss + self.more_loss(current_iter, unlabelled))
        self.record(
            **{name: value.mean() for name, value in parts.items()},
            l_sup=mean_over(losses, ~unlabelled),
            l_consistency=mean_over(losses, taught),
            consistency_weight=torch.tensor(weight, device=self.device),
        )


def sigmoid_rampup(iteration: int, rampup_iter: int) -> float:
    """``exp(-5 (1 - t)^2)`` with t from 0 to 1 over the first ``rampup_iter`` iterations, then 1."""
    t = min(1.0, iteration / rampup_iter) if rampup_iter > 0 else 1.0
    return math.exp(-5 * (1 - t) ** 2)


def mean_over(losses: Tensor, chosen: Tensor, among: Tensor | None = None) -> Tensor:
    """Mean of the chosen samples' losses; 0 if there are none.

    Args:
        losses: ``(N,)``.
        chosen: ``(N,)`` bool.
        among: ``(N,)`` bool: the mean is over all of these, the losses of those that are not chosen being 0.
    """
    count = (chosen if among is None else among).sum().clamp_min(1)
    return torch.where(chosen, losses, losses.new_zeros(())).sum() / count
