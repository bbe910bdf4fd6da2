"""A semi-supervised baseline without f_ISP's ground truths: MixMatch."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from semiisp_plugin.models.consistency import mean_over
from semiisp_plugin.models.mixup import mix
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel
from semiisp_plugin.options import MixMatch
from semiisp_plugin.toolbox import MODEL_REGISTRY, register

_STREAM = 0x6D6D6174  # keeps these draws apart from others that are seeded by iteration


@register(MODEL_REGISTRY)
class MixMatchModel(PseudoInputsModel):
    """MixMatch (Berthelot et al., NeurIPS 2019), adapted from classification to regression; the adaptation is ours.

    Trains on the batches of a `SemiSupervisedDataset`. Its unlabelled images are the data set's unlabelled inputs and
    its pseudo inputs, whichever there are; pseudo ground truths are not used. Of the paper are

    * the guess: the target of an unlabelled image is the mean of what the network gives for K = 2 augmentations of it,
      a constant in the step;
    * mixup: the batch is the labelled samples and both augmentations of the unlabelled ones, each mixed with another
      of them, inputs and targets alike, with a share of its own from Beta(alpha, alpha), at least one half, so that a
      sample stays what it mainly is, labelled or unlabelled;
    * the loss: the mean over the labelled samples plus a weight, which rises linearly, times that over the unlabelled.

    Ours are

    * the augmentations, which are geometric alone, for any other would change the target: the image as it is, and
      flipped or turned at random (those that keep height and width); predictions are turned back before the mean;
    * the guess is made in evaluation mode, is clamped to [0, 1], and is not sharpened, which makes sense for classes
      alone;
    * both losses are those that ``train`` names, where the paper has cross entropy and squared errors.

    Options in ``train``: ``mixmatch: {weight, alpha, rampup_iter}``, see `semiisp_plugin.options.MixMatch`.

    Logged: the losses of all samples, ``l_sup`` and ``l_unlabelled`` (without its weight), ``unlabelled_weight``;
    images of labelled and unlabelled samples, mixed as they are.
    """

    def init_training_settings(self) -> None:
        """As for every phase, and the options of MixMatch."""
        super().init_training_settings()
        self.mixmatch = msgspec.convert(self.opt["train"].get("mixmatch") or {}, MixMatch)

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.add_noise(current_iter)
        self.is_unlabelled = self.is_unlabelled | self.is_pseudo
        self.fit_flow()
        self.guess_and_mix(current_iter)
        losses, parts = self.sample_losses(self.net_g)
        unlabelled = self.is_unlabelled.to(self.device)
        weight = self.mixmatch.weight * linear_rampup(current_iter, self.mixmatch.rampup_iter)
        trained = self.penalised(losses)
        self.step(mean_over(trained, ~unlabelled) + weight * mean_over(trained, unlabelled))
        self.record(
            **{name: value.mean() for name, value in parts.items()},
            l_sup=mean_over(losses, ~unlabelled),
            l_unlabelled=mean_over(losses, unlabelled),
            unlabelled_weight=torch.tensor(weight, device=self.device),
        )

    @torch.no_grad()
    def guess_and_mix(self, current_iter: int) -> None:
        """Guess targets, append the second augmentation of the unlabelled samples to the batch, and mix the batch."""
        chosen = torch.nonzero(self.is_unlabelled).flatten()
        height, width = self.lq.shape[-2:]
        mixing = draw_mixmatch(
            len(self.lq) + len(chosen),
            len(chosen),
            height == width,
            self.mixmatch.alpha,
            (self.opt["manual_seed"], self.draw_number(current_iter), self.opt.get("rank", 0)),
        )
        if len(chosen):
            numbers, chosen = chosen.tolist(), chosen.to(self.device)
            images = self.lq[chosen]
            other = turned(images, mixing.turns)
            guessed = self.guess(images, other, mixing.turns)
            self.lq, gt = torch.cat((self.lq, other)), self.gt.clone()  # on a CPU it is the caller's batch
            gt[chosen] = guessed
            self.gt = torch.cat((gt, turned(guessed, mixing.turns)))
            self.is_unlabelled = torch.cat((self.is_unlabelled, torch.ones(len(numbers), dtype=torch.bool)))
            if self.keys is not None:
                self.keys = [*self.keys, *(self.keys[n] for n in numbers)]
        self.is_pseudo = torch.zeros_like(self.is_unlabelled)  # they are among the unlabelled ones
        shares = mixing.shares.to(self.lq).view(-1, 1, 1, 1)
        self.lq, self.gt = mix(self.lq, shares, mixing.partners), mix(self.gt, shares, mixing.partners)

    def guess(self, images: Tensor, other: Tensor, turns: list[int]) -> Tensor:
        """The targets of unlabelled images.

        Args:
            images: ``(N, C, H, W)``.
            other: The same, as `turned` gives them.
            turns: How.

        Returns:
            ``(N, C, H, W)`` in [0, 1]. Where the network changes the size, the images, for there is no guess:
            `sample_losses` is about to say so.
        """
        with self.in_evaluation() as net:
            first, second = self.predict(net, torch.cat((images, other))).chunk(2)
        if first.shape != images.shape:
            return images
        return ((first + turned(second, turns, back=True)) / 2).clamp(0, 1).to(images.dtype)


class Mixing(NamedTuple):
    """What is drawn for a batch.

    Attributes:
        turns: How each unlabelled image is turned, see `turned`.
        shares: ``(N,)`` float64, the share of each sample itself, in [1/2, 1].
        partners: ``(N,)``, the number of the sample that each is mixed with, a permutation.
    """

    turns: list[int]
    shares: Tensor
    partners: Tensor


def draw_mixmatch(size: int, unlabelled: int, square: bool, alpha: float, seeds: tuple[int, int, int]) -> Mixing:
    """Draw how a batch is augmented and mixed: from the arguments alone, so that a resumed run draws it again.

    Args:
        size: N, of both augmentations of unlabelled images.
        unlabelled: Number of unlabelled images.
        square: Whether images may be transposed, too.
        alpha: Shares are drawn from Beta(alpha, alpha), above 0.
        seeds: The run's, the batch's number, the process's.
    """
    rng = np.random.default_rng([_STREAM, *seeds])
    turns = rng.integers(1, 8 if square else 4, unlabelled).tolist()
    shares = rng.beta(alpha, alpha, size)
    return Mixing(turns, torch.from_numpy(np.maximum(shares, 1 - shares)), torch.from_numpy(rng.permutation(size)))


def turned(images: Tensor, turns: list[int], *, back: bool = False) -> Tensor:
    """Flip and transpose images, each in its own way: the eight symmetries of the square.

    Args:
        images: ``(N, C, H, W)``.
        turns: Of each image the sum of 1 (flip left to right), 2 (then upside down) and 4 (then transpose, of square
            images); 0 leaves it.
        back: Undo it.

    Returns:
        ``(N, C, H, W)``.
    """
    done = []
    for image, turn in zip(images, turns, strict=True):
        if back and turn & 4:
            image = image.transpose(-2, -1)
        image = image.flip([axis for bit, axis in ((1, -1), (2, -2)) if turn & bit])
        if not back and turn & 4:
            image = image.transpose(-2, -1)
        done.append(image)
    return torch.stack(done)


def linear_rampup(iteration: int, rampup_iter: int) -> float:
    """From 0 to 1 over the first ``rampup_iter`` iterations, then 1."""
    return min(1.0, iteration / rampup_iter) if rampup_iter > 0 else 1.0
