"""A semi-supervised baseline: a mean teacher of images and latents, with a Gaussian process between the latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from semiisp_plugin.losses.gaussian_process import gp_loss
from semiisp_plugin.losses.per_sample import full_precision, per_sample
from semiisp_plugin.models.consistency import TeacherModel, sigmoid_rampup
from semiisp_plugin.models.output_penalties import NotedOutputs, named_modules
from semiisp_plugin.options import LatentTeacher
from semiisp_plugin.toolbox import MODEL_REGISTRY, register

_GRID = 4  # ours; LMT-GP's process sees all positions of its latent


@register(MODEL_REGISTRY)
class LatentTeacherModel(TeacherModel):
    """Latent mean teacher with a Gaussian process, after LMT-GP (ECCV 2024), for any network.

    Trains as the `MeanTeacherModel` does. Besides, the network's latent, which is what the part named by ``latent``
    gives, is held to

    * what it is in the teacher, for unlabelled images: the mean squared error, times ``latent_weight``;
    * what a Gaussian process predicts it to be from the latents of labelled images: `gp_loss`, of means over a grid of
      at most 4 by 4 places, times ``gp_weight``.

    Both rise with the weight of the images. The process learns from a bank, the student's latents of the last
    ``bank_size`` labelled images, and waits until these are twice as many as its ``neighbours``. LMT-GP keeps those of
    all labelled images, renewed each epoch, and says neither weight: the process's is that of its source, Syn2Real
    (CVPR 2020); the other, the grid and the ring are ours.

    Options in ``train``: ``latent_teacher: {weight, rampup_iter, jitter, student_noise, latent, latent_weight,
    gp_weight, neighbours, bank_size}``, see `semiisp_plugin.options.LatentTeacher`.

    Logged besides what `TeacherModel` logs: ``l_latent`` and ``l_gp``, without their weights.

    Attributes:
        bank: ``(B, D)`` float32, oldest first. Of all processes.
    """

    def init_training_settings(self) -> None:
        """As for every phase, the options, and an empty bank.

        Raises:
            ValueError: The network has no part of that name.
        """
        super().init_training_settings()
        self.latent_teacher = msgspec.convert(self.opt["train"]["latent_teacher"], LatentTeacher)
        self.consistency = self.latent_teacher
        name, where = self.latent_teacher.latent, "train:latent_teacher:latent:"
        student, self._of_teacher = named_modules({"network_g": self.net_g, "its average": self.net_g_ema}, name, where)
        self.latents = NotedOutputs([student], f"{where} '{name}'")
        self.bank = torch.empty(0, device=self.device)

    @torch.no_grad()
    def take_targets_of_the_teacher(self, current_iter: int, samples: Tensor, stream: int = 1) -> None:
        """See `ConsistencyModel`; the teacher's latents are noted."""
        self.latents.clear()
        self._taught: Any = None  # as long as there is no unlabelled sample
        noted = self._of_teacher.register_forward_hook(self._note)
        try:
            super().take_targets_of_the_teacher(current_iter, samples, stream)
        finally:
            noted.remove()

    def _note(self, module: Any, inputs: Any, output: Any) -> None:
        self._taught = output

    def more_loss(self, current_iter: int, unlabelled: Tensor) -> Tensor:
        """The two terms of the latents, with their weights; the bank takes in those of the labelled samples."""
        latents = full_precision(self.latents.take_outputs(len(self.lq))[-1])
        flat = on_grid(latents)
        self.remember(flat[~unlabelled].detach())
        settings = self.latent_teacher
        of_latent = of_process = latents.new_zeros(())
        if self._taught is not None:
            of_latent = per_sample((latents[unlabelled] - self._taught).square()).mean()
            if len(self.bank) >= 2 * settings.neighbours:
                of_process = gp_loss(flat[unlabelled], self.bank, settings.neighbours).mean()
        self.record(l_latent=of_latent, l_gp=of_process)
        rise = sigmoid_rampup(current_iter, settings.rampup_iter)
        return rise * (settings.latent_weight * of_latent + settings.gp_weight * of_process)

    def remember(self, latents: Tensor) -> None:
        """Let the bank take in those that are finite.

        Args:
            latents: ``(M, D)``.
        """
        if self.bank.shape[1:] != latents.shape[1:]:  # of crops of another size, before the run was resumed
            self.bank = latents.new_empty((0, latents.shape[1]), dtype=torch.float32)
        every = self.gathered(latents[latents.isfinite().all(1)].cpu())
        self.bank = torch.cat((self.bank, torch.cat(every).to(self.bank)))[-self.latent_teacher.bank_size :]

    def extra_state(self) -> dict[str, Any]:
        """Also the bank."""
        return {**super().extra_state(), "latents": self.bank.cpu(), "latent": self.latent_teacher.latent}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        super().load_extra_state(state)
        if state["latent"] == self.latent_teacher.latent:  # those of another part are of no use
            self.bank = state["latents"].to(self.device)


def on_grid(latents: Tensor) -> Tensor:
    """A vector for each sample: feature maps as means over at most 4 by 4 places, other latents as they are.

    Args:
        latents: ``(N, C, H, W)``, or ``(N, ...)``.

    Returns:
        ``(N, D)``.
    """
    if latents.ndim == 4:
        height, width = (min(_GRID, side) for side in latents.shape[2:])
        latents = adaptive_avg_pool2d(latents, (height, width))
    return latents.flatten(1)
