"""A semi-supervised baseline without f_ISP's ground truths: an adversarial term with unpaired targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from semiisp_plugin.archs.colour_discriminator import ColourDiscriminator
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.metrics.no_reference import TargetStatistics
from semiisp_plugin.models.consistency import mean_over
from semiisp_plugin.models.mixmatch_model import linear_rampup
from semiisp_plugin.models.pseudo_inputs import PseudoInputsModel
from semiisp_plugin.options import Adversarial
from semiisp_plugin.toolbox import MODEL_REGISTRY, register

_OPTIM_D = {"type": "Adam", "lr": 1e-6}
# Between these the labels are drawn that the discriminator is to give.
_REAL, _FAKE = (0.7, 1.2), (0.0, 0.3)
_OF_LABELS = 4  # of `generator_of`: a stream of its own, beside those of jitter, noise, likelihood and consistency
_GREY = 0.5


@register(MODEL_REGISTRY)
class AdversarialModel(PseudoInputsModel):
    """The adversarial term of DRBN's second stage (Yang et al., CVPR 2020) for any network.

    Trains on the batches of a `SemiSupervisedDataset`. A `ColourDiscriminator` learns to tell the network's outputs,
    those of all samples, from good images, and the network, besides learning from the pairs, to be taken for good:

        loss of the network       = mean over pairs of the losses that ``train`` names + weight * mean (D(output) - 1)^2
        loss of the discriminator = mean (D(good) - a)^2 + mean (D(output) - b)^2,   a of 0.7 ... 1.2, b of 0 ... 0.3

    a and b are drawn for each image. Least squares, their labels, the discriminator and the default weight and
    optimiser are DRBN's. Ours are

    * the good images: the pairs' targets and, where there are pseudo pairs, their ground truths, which are never
      compared with the outputs for their inputs. DRBN takes photographs that people have rated high; these are
      photographs that were given the look of the pairs' targets;
    * the choice among them (``quality``), the best by `TargetStatistics`, in place of those ratings;
    * the linear ramp-up of the weight; both networks step at once, after one pass each over good images and outputs.

    The network's unlabelled images are the data set's unlabelled inputs and its pseudo inputs, whichever there are.
    The discriminator follows the schedule of ``train: scheduler``, precision and ``grad_clip``; it is kept in the
    training state alone.

    Options in ``train``: ``adversarial: {weight, quality, optim_d, rampup_iter, width}``, see
    `semiisp_plugin.options.Adversarial`.

    Logged: the losses of the pairs, ``l_sup`` (their sum), ``l_adv`` (without its weight), ``adversarial_weight``,
    ``l_d``, and the mean scores ``d_real`` and ``d_fake``; images of labelled and unlabelled samples, of these with
    grey in the place of targets.
    """

    def build_networks(self) -> None:
        """Build the network, and for training the discriminator."""
        super().build_networks()
        if self.is_train:
            self.adversarial = msgspec.convert(self.opt["train"].get("adversarial") or {}, Adversarial)
            self.net_d = self.model_to_device(ColourDiscriminator(self.adversarial.width))

    def updated_networks(self) -> list[nn.Module]:
        """Also the discriminator."""
        return [*super().updated_networks(), self.net_d]

    def init_training_settings(self) -> None:
        """As for every phase, and the score by which pseudo ground truths are chosen."""
        super().init_training_settings()
        self.score = None if self.adversarial.quality is None else TargetStatistics().to(self.device)

    def setup_optimizers(self) -> None:
        """Also the discriminator's."""
        super().setup_optimizers()
        settings = self.adversarial.optim_d or _OPTIM_D
        self.optimizers.append(self.build_optimizer("train:adversarial:optim_d", settings, [self.net_d]))

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.add_noise(current_iter)
        unlabelled = self.unlabelled()
        good = self.good_images(unlabelled)
        # Their losses do not count; but a gradient of 0 times what is not finite would.
        self.gt = torch.where(unlabelled.view(-1, 1, 1, 1), _GREY, self.gt)
        losses, parts = self.sample_losses(self.net_g)
        output = self.output
        assert output is not None  # the losses of this model look at it
        discriminator = self.get_bare_model(self.net_d).requires_grad_(False)
        adversarial = (self.predict(discriminator, output) - 1).square().mean()
        discriminator.requires_grad_(True)
        real, fake = self.predict(self.net_d, good), self.predict(self.net_d, output.detach())
        generator = self.generator_of(current_iter, _OF_LABELS)
        of_real = (real - soft_labels(len(real), _REAL, generator)).square().mean()
        of_fake = (fake - soft_labels(len(fake), _FAKE, generator)).square().mean()
        weight = self.adversarial.weight * linear_rampup(current_iter, self.adversarial.rampup_iter)
        of_network = mean_over(self.penalised(losses), ~unlabelled) + weight * adversarial
        self.step(of_network + of_real + of_fake)
        self.record(
            **{name: mean_over(value, ~unlabelled) for name, value in parts.items()},
            l_sup=mean_over(losses, ~unlabelled),
            l_adv=adversarial,
            adversarial_weight=torch.tensor(weight, device=self.device),
            l_d=of_real + of_fake,
            d_real=real.mean(),
            d_fake=fake.mean(),
        )

    def good_images(self, unlabelled: Tensor) -> Tensor:
        """What the discriminator is to take for good, ``(M, 3, H, W)``: the pairs' targets first.

        Args:
            unlabelled: ``(N,)`` bool, all other samples than the pairs.
        """
        labelled, pseudo = self.gt[~unlabelled], self.gt[self.is_pseudo.to(self.device)]
        share = self.adversarial.quality
        if self.score is not None and share is not None:
            self.score.see(labelled, self.opt["world_size"] if self.opt.get("dist") else 1)
            if len(pseudo):
                pseudo = pseudo[best(self.score(pseudo), share)]
        return torch.cat([labelled, pseudo])

    def extra_state(self) -> dict[str, Any]:
        """Also the discriminator, and what the score remembers."""
        state = {**super().extra_state(), "discriminator": self.get_bare_model(self.net_d).state_dict()}
        return state if self.score is None else {**state, "score": self.score.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        super().load_extra_state(state)
        self.get_bare_model(self.net_d).load_state_dict(state["discriminator"])
        if self.score is not None and "score" in state:
            self.score.load_state_dict(state["score"])

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """As for every phase.

        Raises:
            CheckpointError: Also where the discriminator is another one, or its optimiser.
        """
        if resume_state.get("model_type") == self.opt["model_type"]:
            before = msgspec.convert(resume_state["options"]["train"].get("adversarial") or {}, Adversarial)
            now = self.adversarial
            kinds = ((s.optim_d or _OPTIM_D)["type"] for s in (before, now))
            for key, was, is_ in (("width", before.width, now.width), ("optim_d:type", *kinds)):
                if was != is_:
                    raise CheckpointError(
                        f"{self.opt['path'].get('resume_state')} is of train:adversarial:{key} {was}, not {is_}. "
                        f"Restore the former one; or, to start from the weights alone, give path:pretrain_network_g "
                        f"instead of resume_state."
                    )
        super().resume_training(resume_state)


def best(scores: Tensor, share: float) -> Tensor:
    """The numbers of the highest of ``scores`` (N,), a share of them, rounded, but one at least; in rising order."""
    kept = max(1, round(share * len(scores)))
    return scores.nan_to_num(nan=-torch.inf).topk(kept).indices.sort().values


def soft_labels(count: int, between: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Numbers drawn uniformly between two, ``(count,)`` on the generator's device."""
    low, high = between
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)
