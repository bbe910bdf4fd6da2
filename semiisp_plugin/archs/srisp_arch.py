"""A reference-guided inverse ISP in the place of SRISP, of which no code is known."""

from __future__ import annotations

from typing import Annotated

import torch
from msgspec import Meta
from torch import Tensor, nn

from semiisp_plugin.archs.blocks import as_thumbnail, check_at_least, widened
from semiisp_plugin.archs.pqdynamicisp_arch import ParameterEncoder
from semiisp_plugin.archs.srgb_to_raw import Generators, SRGBToRAWNetwork, drawn
from semiisp_plugin.archs.table_prediction import WideLinear
from semiisp_plugin.isp.invertible_isp import InvertibleISP
from semiisp_plugin.isp.parameters import ISPSpec
from semiisp_plugin.options.ranges import Size, Thumbnail
from semiisp_plugin.registry import ARCH_REGISTRY, register

_GAMMA = 2.2
_DARKEST = 1e-4  # of what a power below 1 is taken: at 0 its slope is infinite
_LEAST_SHARE = 0.5  # of a side of the RAW image that serves as its own reference


@register(ARCH_REGISTRY)
class SRISP(SRGBToRAWNetwork):
    """f_ISP's functions inverted, with parameters chosen by the image and a reference RAW image. Ours.

    It stands for SRISP ("Self-supervised reversed image signal processing via reference-guided dynamic parameter
    selection", arXiv 2303.13916), of which the paper says that it "introduces a reference RAW image input"; all else is
    our own. The parameters of each function are a mixture of learned ones, a dictionary, and two encoders decide on the
    shares: one sees the image, the other the reference.

    In training the reference is a part of the wanted RAW image itself, flipped at random. The last references are kept,
    and a drawn one takes their place afterwards (`draw`): one to many.

    Args:
        inverse_tone_mapping: True for image enhancement, sRGB to sRGB.
        thumbnail: Side of the squares that the encoders look at, in pixels; at least 32.
        entries: Of the dictionary of each function.
        num_feat: Features that each encoder gives.
        references: How many are kept.
    """

    references: Tensor
    seen: Tensor

    def __init__(
        self,
        inverse_tone_mapping: bool = False,
        thumbnail: Thumbnail = 64,
        entries: Size = 32,
        num_feat: Size = 64,
        references: Annotated[int, Meta(ge=1, le=10_000)] = 64,
    ) -> None:
        super().__init__()
        check_at_least("SRISP", 32, thumbnail=thumbnail)  # the encoders halve it five times
        check_at_least("SRISP", 1, entries=entries, num_feat=num_feat, references=references)
        self.spec = ISPSpec(inverse_tone_mapping=inverse_tone_mapping, gamma_start=1.0 if inverse_tone_mapping else 2.2)
        self.isp = InvertibleISP(self.spec, check=False)  # `squash` leaves nothing outside
        self.of_image = ParameterEncoder(num_feat, (1, 1), thumbnail)
        self.of_reference = ParameterEncoder(num_feat, (1, 1), thumbnail)
        self.functions = self.spec.slices()
        last = WideLinear(128, len(self.functions) * entries)
        self.selector = nn.Sequential(WideLinear(2 * num_feat, 128), nn.LeakyReLU(0.2), last)
        self.dictionary = nn.Parameter(0.3 * torch.randn(entries, self.spec.n_parameters))
        for encoder in (self.of_image, self.of_reference):  # whose heads begin near 0: the choice would not see them
            nn.init.kaiming_normal_(encoder.head.weight)
        self.register_buffer("references", torch.zeros(references, 3, thumbnail, thumbnail))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    # --- parameters --------------------------------------------------------------------------------------------------

    def parameters_for(self, image: Tensor, reference: Tensor) -> Tensor:
        """Parameter sets of the ISP, (N, K, 1, 1).

        Args:
            image: (N, 3, H, W) sRGB in [0, 1].
            reference: (N, num_feat, 1, 1), features of reference RAW images.
        """
        both = torch.cat([self.of_image(image), reference], dim=1).flatten(1)
        shares = self.selector(both).unflatten(1, (len(self.functions), -1)).softmax(2).unbind(1)
        entries = self.dictionary.to(shares[0])
        with torch.autocast(image.device.type, enabled=False):  # a decision, in float32 as those of tables
            sets = [share @ entries[:, part] for share, part in zip(shares, self.functions.values(), strict=True)]
        return self.spec.squash(torch.cat(sets, dim=1)[:, :, None, None])

    def _inverted(self, image: Tensor, reference: Tensor) -> Tensor:
        image = widened(image)
        return self.isp.inverse(image.clamp(0, 1), self.parameters_for(image, reference)).image

    def enhance(self, image: Tensor) -> Tensor:
        """RAW images by the mean features of all references, (N, 3, H, W)."""
        count = self.seen.clamp(1, len(self.references))  # before training a black one
        kept = (torch.arange(len(self.references), device=count.device) < count).to(self.references)
        features = self.of_reference(self.references)
        mean = (features * kept.to(features)[:, None, None, None]).sum(0) / count
        return self._inverted(image, mean.expand(len(image), -1, -1, -1))

    def draw(self, image: Tensor, generator: Generators) -> Tensor:
        """See `SRGBToRAWNetwork.draw`: each image with a reference of its own.

        Raises:
            ValueError: The network has seen no reference; see also `drawn`.
        """
        self.check_usable()
        count = min(int(self.seen), len(self.references))
        chosen = drawn(lambda n, g: torch.randint(count, (n,), generator=g), len(image), generator)
        return self._inverted(image, self.of_reference(self.references[chosen.to(self.references.device)]))

    def check_usable(self) -> None:
        """See `SRGBToRAWNetwork.check_usable`."""
        if int(self.seen) == 0:
            raise ValueError("SRISP: it has seen no reference yet: train it on pairs first (train: own_loss).")

    # --- training ----------------------------------------------------------------------------------------------------

    def losses(self, image: Tensor, raw: Tensor, generator: torch.Generator) -> Tensor:
        """Mean absolute errors of the RAW image, as it is and with a gamma of 1/2.2, (N,); ours."""
        thumbnails = self._parts(raw, generator)
        if self.training and torch.is_grad_enabled():
            self._keep(thumbnails)
        made = self._inverted(image, self.of_reference(thumbnails))
        made, raw = made.float(), raw.float()
        bright = (made.clamp_min(_DARKEST).pow(1 / _GAMMA) - raw.clamp_min(_DARKEST).pow(1 / _GAMMA)).abs()
        return ((made - raw).abs() + bright).mean((1, 2, 3))

    def _parts(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        """A random part of each RAW image, flipped at random, as a thumbnail, (N, 3, thumbnail, thumbnail)."""
        places = torch.rand(len(raw), 6, generator=generator, device=raw.device).tolist()
        parts = []
        for picture, (height, width, top, left, upside_down, mirrored) in zip(raw.float(), places, strict=True):
            for axis, share, start, flip in ((1, height, top, upside_down), (2, width, left, mirrored)):
                side = picture.shape[axis]
                length = max(1, round(side * (_LEAST_SHARE + (1 - _LEAST_SHARE) * share)))
                picture = picture.narrow(axis, round((side - length) * start), length)
                picture = picture.flip(axis) if flip < 0.5 else picture
            parts.append(as_thumbnail(picture[None], self.of_image.thumbnail, antialias=True))
        return torch.cat(parts)

    @torch.no_grad()
    def _keep(self, thumbnails: Tensor) -> None:
        """Keep the references, in place of the oldest; not black ones, which are what is left of unusable images."""
        for thumbnail in thumbnails[thumbnails.flatten(1).any(1)]:
            self.references[self.seen % len(self.references)] = thumbnail
            self.seen += 1
