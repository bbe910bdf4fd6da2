"""Phase 1: training f_ISP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.checkpoint import load_checkpoint
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.models.restoration import RestorationModel
from semiisp_plugin.pseudo.f_isp import save_f_isp
from semiisp_plugin.toolbox import MODEL_REGISTRY, master_only, register

DEFAULT_BANK_SIZE = 5000  # N of Table 5


@register(MODEL_REGISTRY)
class ISPModel(RestorationModel):
    """Trains the two f_ISPs of Sec. 4.2 on the same batches: ``network_g`` (local) and ``network_global``.

    Their parameter sets of the last ``train:bank_size`` samples (default 5000, Table 5) are kept during training
    and saved with both networks' options and weights in ``f_isp_<iter>.pth``, which is all that making pseudo-data
    needs. The loss is the sum of both networks'; they share nothing, so that each trains as if alone. Validation
    reports both, the global one under ``<data set>_global``.

    ``train:photometric_jitter`` (ours) multiplies brightness and saturation of the inputs by factors of up to 1 +- that
    value, so that few pairs show f_ISP more situations.
    """

    def build_networks(self) -> None:
        """Build and check both networks."""
        if self.compiled:
            raise ValueError("train:compile: f_ISP's parameter sets are read inside its forward pass; leave it out.")
        if self.is_train and self.opt.get("network_global") is None:
            raise ValueError("ISPModel needs the section 'network_global': a PQDynamicISP with grid [1, 1].")
        self.net_g = self.build_one("network_g", "pretrain_network_g")
        self.net_global: Any = None  # a network, except in tests of the local one alone
        if self.opt.get("network_global") is not None:
            self.net_global = self.build_one("network_global", "pretrain_network_global")
            local, global_ = (self.get_bare_model(n) for n in (self.net_g, self.net_global))
            for key, net in (("network_g", local), ("network_global", global_)):
                if not isinstance(net, PQDynamicISP):
                    raise ValueError(f"{key}: f_ISP must be a PQDynamicISP, not {type(net).__name__}.")
            if global_.grid != (1, 1) or local.spec != global_.spec:
                raise ValueError("network_global must be network_g with grid: [1, 1] and otherwise the same options.")

    def init_training_settings(self) -> None:
        """As for every phase, and the parameter banks."""
        super().init_training_settings()
        size = int(self.opt["train"].get("bank_size") or DEFAULT_BANK_SIZE)
        local = self.get_bare_model(self.net_g)
        self.banks = {"local": ParameterBank(local.spec, size, local.grid), "global": ParameterBank(local.spec, size)}
        self.n_pairs = 0

    def trained_networks(self) -> list[nn.Module]:
        """Both."""
        return [self.net_g, self.net_global]

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration on the batch of `feed_data`."""
        self.jitter_inputs(current_iter)
        total = torch.zeros((), device=self.device)
        logs = {}
        for label, wrapped in (("global", self.net_global), ("local", self.net_g)):
            net = self.get_bare_model(wrapped)
            captured: list[torch.Tensor] = []
            # The sets are those of the training forward pass itself (Sec. 3.1), also inside a parallel wrapper.
            hook = net.encoder.register_forward_hook(lambda _m, _i, z, kept=captured: kept.append(z.detach()))
            losses, parts = self.sample_losses(wrapped)
            hook.remove()
            total = total + self.penalised(losses).mean()
            logs.update({f"{name}_{label}": value.mean() for name, value in parts.items()})
            for z in captured:
                self.banks[label].append(self.of_all_processes(net.spec.squash(z.float())))
        self.step(total)
        self.record(**logs)

    def of_all_processes(self, sets: torch.Tensor) -> torch.Tensor:
        """The sets of the whole batch: "the last N samples" are those of all processes."""
        if not self.opt.get("dist"):
            return sets
        gathered = [torch.empty_like(sets) for _ in range(self.opt["world_size"])]
        torch.distributed.all_gather(gathered, sets.contiguous())
        return torch.cat(gathered)

    def validation(self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False) -> None:
        """Validate the local network, then the global one."""
        super().validation(dataloader, current_iter, tb_logger, save_img)
        if self.net_global is None:
            return
        options = dataloader.dataset.opt
        name = options["name"]
        network, average = self.net_g, self.__dict__.pop("net_g_ema", None)
        try:
            options["name"] = f"{name}_global"
            self.net_g = self.net_global
            super().validation(dataloader, current_iter, tb_logger, False)
        finally:
            options["name"] = name
            self.net_g = network
            if average is not None:
                self.net_g_ema = average

    def save_networks(self, label: int | str) -> None:
        """Both networks, and f_ISP for phase 2."""
        self.save_network(self.net_global, "net_global", label)
        self.save_f_isp(label)
        super().save_networks(label)

    def files_of(self, current_iter: int) -> list[str]:
        """Both networks, and f_ISP with the banks."""
        return [f"{stem}_{current_iter}.pth" for stem in ("net_g", "net_global", "f_isp")]

    @master_only  # type: ignore[untyped-decorator]  # BasicSR is untyped
    def save_f_isp(self, label: int | str) -> None:
        """Write ``f_isp_<label>.pth``."""
        local = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        path = self.checkpoint_path("f_isp", label)
        save_f_isp(path, self.opt["network_g"], local.state_dict(), self.banks, self.n_pairs)

    def resume_networks(self, iteration: int) -> None:
        """Both networks and the banks."""
        super().resume_networks(iteration)
        self.load_network(self.net_global, self.resumed_path("net_global", iteration))
        banks = load_checkpoint(self.resumed_path("f_isp", iteration))["banks"]
        for label, state in banks.items():
            saved, bank = ParameterBank.from_state_dict(state), self.banks[label]
            bank.append(saved.sets)  # as many as `train:bank_size` says now
            bank.non_finite = saved.non_finite

    def extra_state(self) -> dict[str, Any]:
        """Also the number of pairs."""
        return {**super().extra_state(), "n_pairs": self.n_pairs}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `extra_state`."""
        super().load_extra_state(state)
        self.n_pairs = int(state["n_pairs"])
