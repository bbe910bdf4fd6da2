"""Phase 3, and the supervised baseline."""

from __future__ import annotations

from semiisp_plugin.models.mixup import draw_mixing, mix
from semiisp_plugin.models.restoration import RestorationModel
from semiisp_plugin.toolbox import MODEL_REGISTRY, register


@register(MODEL_REGISTRY)
class SupervisedModel(RestorationModel):
    """Supervised training on the pairs alone: fine-tuning after semi-supervised learning (Sec. 3.3), or from scratch.

    ``train:photometric_jitter`` (ours, a baseline) multiplies brightness and saturation of the inputs by factors of
    up to 1 +- that value. ``train:mixup`` (Retinexformer's recipe) then mixes the pairs of each batch with one another,
    see `semiisp_plugin.models.mixup`.
    """

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.jitter_inputs(current_iter)
        self.mix_pairs(current_iter)
        self.fit_flow()
        losses, parts = self.sample_losses(self.net_g)
        total = self.penalised(losses).mean()
        self.step(total)
        self.record(**{name: value.mean() for name, value in parts.items()}, l_total=total)

    def mix_pairs(self, current_iter: int) -> None:
        """Mix inputs and targets of the batch, as ``train:mixup`` says."""
        settings = self.opt["train"].get("mixup")
        if settings is None:
            return
        number, process = self.draw_number(current_iter), self.opt.get("rank", 0)
        mixing = draw_mixing(len(self.lq), self.opt["manual_seed"], number, process, **settings)
        if mixing is not None:
            self.lq, self.gt = mix(self.lq, *mixing), mix(self.gt, *mixing)
