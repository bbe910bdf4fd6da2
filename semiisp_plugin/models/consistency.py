"""Learning from the network's own average, the teacher, on samples without a target: what two models share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel
from semiisp_plugin.options import Consistency
from semiisp_plugin.options.structures import Noise
from semiisp_plugin.pseudo.noise import add_shot_read_noise, draw_noise_levels


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
        taught = self.net_g_ema(clean).clamp(0, 1).to(self.gt.dtype)
        self.lq, self.gt = self.lq.clone(), self.gt.clone()  # on a CPU they are the caller's batch
        if taught.shape[1:] == self.gt.shape[1:]:  # otherwise the student's is wrong, too, and sample_losses says how
            self.gt[chosen] = taught
        self.lq[chosen] = of_student

    def consistency_weight(self, current_iter: int) -> float:
        """The weight of the samples that the teacher gave targets."""
        if self.consistency is None:
            return 0.0
        return self.consistency.weight * sigmoid_rampup(current_iter, self.consistency.rampup_iter)

    def model_ema(self, decay: float = 0.999) -> None:
        """As for every phase; the decay of a teacher is smaller at first."""
        young = (1 + self._iteration) / (10 + self._iteration)
        super().model_ema(decay if self.consistency is None else min(decay, young))


def noisy(images: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Images with noise of eq. 15, of a level drawn for each.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1].
        noise: The largest levels.
        generator: On their device.

    Returns:
        ``(N, 3, H, W)`` in [0, 1].
    """
    shot, read = draw_noise_levels(len(images), generator, noise.shot_variance, noise.read_variance)
    return add_shot_read_noise(images, shot, read, generator)


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
