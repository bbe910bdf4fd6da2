"""ImageNet weights of torchvision's classification networks, whose features a loss and a metric compare."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from semiisp_plugin.io.checkpoint import CheckpointError, load_checkpoint

_TIMEOUT_SECONDS = 10.0  # longest wait for an answer of the download server, before a closed network is reported


class ImageNetWeightsError(RuntimeError):
    """The weights are not there and cannot be fetched, or a file is not what it should be."""


class ImageNetWeights(NamedTuple):
    """The file of weights of a network of torchvision's.

    Attributes:
        file: Its name in torch's cache; it ends with the start of the checksum.
        title: Name and size of the network, for messages.
    """

    file: str
    title: str

    @property
    def url(self) -> str:
        """Where torchvision has it from."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def cache(self) -> Path:
        """Where torchvision keeps its copy."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file

    def load(
        self, weights: str | None, wanted: Mapping[str, Tensor], public: Callable[[str], str], owner: str
    ) -> dict[str, Tensor]:
        """Read some of the weights; from torch's cache, which is filled first if need be, unless a file is given.

        Args:
            weights: A file, or None.
            wanted: What is to be filled, by names of the caller's.
            public: Gives torchvision's name of each.
            owner: Whose section has the key ``weights``, for messages.

        Returns:
            The weights by the caller's names.

        Raises:
            ImageNetWeightsError: The file is missing, cannot be read, or is another network's.
        """
        try:
            path = self._find(weights)
            try:
                state = load_checkpoint(path)
            except CheckpointError as error:
                raise ImageNetWeightsError(str(error)) from error
            for key, value in wanted.items():
                found = state.get(public(key))
                if not isinstance(found, Tensor) or not found.is_floating_point():
                    raise ImageNetWeightsError(
                        f"{path} has no entry '{public(key)}' of weights; it is not {self._whose()}."
                    )
                if found.shape != value.shape:
                    raise ImageNetWeightsError(
                        f"'{public(key)}' in {path} is {tuple(found.shape)} instead of {tuple(value.shape)}; it is not "
                        f"{self._whose()}."
                    )
                if not bool(found.isfinite().all()):
                    raise ImageNetWeightsError(f"'{public(key)}' in {path} holds NaN or infinity.")
        except ImageNetWeightsError as error:
            raise ImageNetWeightsError(
                f"{owner}: {error}\n"
                f"Either fetch {self.file} (torchvision's {self.title}) from {self.url} on a machine with network "
                f"access and put it at {self.cache}, torch's cache;\n"
                f"or put it anywhere else and give `weights: <path>` in the section of {owner}."
            ) from error.__cause__
        return {key: state[public(key)] for key in wanted}

    def _whose(self) -> str:
        return f"torchvision's {self.title.split(',')[0]}"

    def _find(self, weights: str | None) -> Path:
        path = self.cache if weights is None else Path(weights).expanduser()
        if path.is_file():
            return path
        if weights is not None:
            raise ImageNetWeightsError(f"`weights: {weights}` is not a file.")
        try:
            _download(self.url, path)
        # No network or no write permission; a broken transfer; a wrong checksum.
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            raise ImageNetWeightsError(
                f"the weights of {self.title} are not in torch's cache and could not be downloaded ({error})."
            ) from error
        return path


def _download(url: str, path: Path) -> None:
    """Fetch a file; the temporary file, the move and the checksum are torch.hub's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.hub waits as long as the system does; ask first whether anybody answers.
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS):
        pass
    torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=False)


ALEXNET = ImageNetWeights("alexnet-owt-7be5be79.pth", "AlexNet, 233 MB")
VGG16 = ImageNetWeights("vgg16-397923af.pth", "VGG16, 528 MB")
SQUEEZENET = ImageNetWeights("squeezenet1_1-b8a52dc0.pth", "SqueezeNet 1.1, 5 MB")
