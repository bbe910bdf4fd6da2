"""A semi-supervised baseline: pseudo-labels that are the best of several candidates, and a bank of their scores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from semiisp_plugin.data.photometric import photometric_jitter
from semiisp_plugin.metrics.no_reference import NoReferenceScore
from semiisp_plugin.models.consistency import TeacherModel
from semiisp_plugin.options import LabelBank
from semiisp_plugin.toolbox import MODEL_REGISTRY, SCORE_REGISTRY, register

_FORGETTING = 0.1  # share of a new score in an image's mean


@register(MODEL_REGISTRY)
class LabelBankModel(TeacherModel):
    """Best-of-candidates pseudo-labels with a bank, after SMSNet (WACV 2023) and Semi-UIR (CVPR 2023).

    Trains as the `MeanTeacherModel` does, but what the student learns of an unlabelled image is, of several candidates,
    the one that a score without a reference finds best. SMSNet's candidates are the outputs of networks that were
    trained on differently degraded inputs each. In their place are (ours)

    * the output of the teacher, and that of the student in evaluation mode;
    * those of the teacher for ``variants`` of the image with brightness and saturation changed;
    * of a pseudo input, its ground truth.

    The bank is Semi-UIR's, where a label is replaced if the teacher's output scores higher than the student's and than
    the best label so far. Labels of random crops cannot be kept, and the best score of many crops is that of a lucky
    one, so that ours keeps a running mean of each image's scores. A candidate whose score is less by more than
    ``tolerance`` is refused: the sample has weight 0 in the mean over the unlabelled ones, as one has whose candidates
    have no finite score. SMSNet's label also resembles, by SSIM, what a first network makes of the image; not ours.

    Options in ``train``: ``label_bank: {weight, rampup_iter, jitter, student_noise, variants, tolerance, score}``, see
    `semiisp_plugin.options.LabelBank`. The default score is `TargetStatistics` (ours).

    Logged besides what `TeacherModel` logs: ``bank/accepted``, the share of unlabelled samples, and ``bank/score``, the
    mean score of their best candidates.

    Attributes:
        score: The score.
        usual: The bank: a running mean of the scores of each image, by its source and key. Of all processes.
    """

    def init_training_settings(self) -> None:
        """As for every phase, the options, the score and an empty bank."""
        super().init_training_settings()
        self.label_bank = msgspec.convert(self.opt["train"].get("label_bank") or {}, LabelBank)
        self.consistency = self.label_bank
        self.score: NoReferenceScore = SCORE_REGISTRY.get(self.label_bank.score)().to(self.device)
        self.usual: dict[str, float] = {}

    @torch.no_grad()
    def take_targets_of_the_teacher(self, current_iter: int, samples: Tensor, stream: int = 1) -> None:
        """See `ConsistencyModel`; scores and the bank are brought up to date."""
        self._accepted = torch.zeros_like(samples)
        self._scores: dict[str, float] = {}
        self.score.see(self.gt[~samples], self.opt["world_size"] if self.opt.get("dist") else 1)
        super().take_targets_of_the_teacher(current_iter, samples, stream)
        for scores in self.gathered(self._scores):
            for key, score in scores.items():
                before = self.usual.get(key, score)
                self.usual[key] = before + _FORGETTING * (score - before)
        self.record(bank__accepted=self._accepted.sum() / samples.sum())

    def labels(self, images: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """See `ConsistencyModel.labels`: the best candidates; which of them the bank accepts is noted."""
        candidates = [super().labels(images, chosen, generator)]
        if candidates[0].shape[1:] != self.gt.shape[1:]:
            return candidates[0]
        with self.in_evaluation() as net:
            candidates.append(self.predict(net, images).clamp(0, 1))
        for _ in range(self.label_bank.variants):
            variant = photometric_jitter(images, self.label_bank.jitter, generator)
            candidates.append(super().labels(variant, chosen, generator))
        candidates.append(self.gt[chosen])
        scores = torch.stack([self.score(candidate) for candidate in candidates])
        scores = torch.where(scores.isfinite(), scores, -torch.inf)
        scores[-1, ~self.is_pseudo.to(chosen.device)[chosen]] = -torch.inf  # it is a stand-in
        best, choice = scores.max(0)
        self._accepted[chosen] = self._accept(chosen.tolist(), best.tolist()).to(self.device)
        self.record(bank__score=best[best.isfinite()].mean())
        return torch.stack(candidates)[choice, torch.arange(len(chosen), device=choice.device)]

    def _accept(self, numbers: list[int], scores: list[float]) -> Tensor:
        """Which labels the bank accepts, ``(M,)`` bool; their scores are noted for it."""
        assert self.keys is not None  # the plugin's data sets have them
        accepted = []
        for number, score in zip(numbers, scores, strict=True):
            key = f"{'pseudo' if self.is_pseudo[number] else 'unlabelled'} {self.keys[number]}"
            accepted.append(
                math.isfinite(score) and score >= self.usual.get(key, -math.inf) - self.label_bank.tolerance
            )
            if math.isfinite(score):
                self._scores[key] = max(score, self._scores.get(key, score))
        return torch.tensor(accepted)

    def taught(self, unlabelled: Tensor) -> Tensor:
        """See `TeacherModel.taught`: those whose label was accepted."""
        return self._accepted

    def extra_state(self) -> dict[str, Any]:
        """Also the bank, and what the score keeps."""
        return {**super().extra_state(), "bank": dict(self.usual), "score": self.score.state_dict()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        super().load_extra_state(state)
        self.usual = dict(state["bank"])
        self.score.load_state_dict(state["score"])
