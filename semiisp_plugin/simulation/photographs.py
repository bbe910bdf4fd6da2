"""Colour photographs that installed Python packages carry as sample data, read from the packages' own folders.

Nothing is downloaded: scikit-image, scikit-learn and matplotlib ship these files with their code. Their own loading
functions are not used, because some of them try the network first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semiisp_plugin.io.image_io import read_image


@dataclass(frozen=True)
class PackagedPhotograph:
    """Where a photograph lies.

    Attributes:
        package: Importable name of the package.
        install: What pip calls the package.
        file: Path inside the package.
        scene: What it shows; two photographs of one scene must not be told apart as training and test data.
    """

    package: str
    install: str
    file: str
    scene: str


def _scikit_image(file: str, scene: str) -> PackagedPhotograph:
    return PackagedPhotograph("skimage", "scikit-image", f"data/{file}", scene)


def _scikit_learn(file: str, scene: str) -> PackagedPhotograph:
    return PackagedPhotograph("sklearn", "scikit-learn", f"datasets/images/{file}", scene)


PHOTOGRAPHS: dict[str, PackagedPhotograph] = {
    "astronaut": _scikit_image("astronaut.png", "astronaut"),
    "chelsea": _scikit_image("chelsea.png", "chelsea"),
    "china": _scikit_learn("china.jpg", "china"),
    "coffee": _scikit_image("coffee.png", "coffee"),
    "flower": _scikit_learn("flower.jpg", "flower"),
    "grace_hopper": PackagedPhotograph(
        "matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "grace_hopper"
    ),
    "motorcycle_left": _scikit_image("motorcycle_left.png", "motorcycle"),
    "motorcycle_right": _scikit_image("motorcycle_right.png", "motorcycle"),
    "rocket": _scikit_image("rocket.jpg", "rocket"),
}
"""Every photograph by name."""


def load_photographs(names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read photographs from the installed packages.

    Args:
        names: Keys of `PHOTOGRAPHS`; all by default.

    Returns:
        Name -> RGB image (H, W, 3) ``uint8``, in the order of ``names``. The shorter side is 300 to 512 pixels.

    Raises:
        KeyError: There is no photograph of that name.
        ModuleNotFoundError: The package that ships it is not installed; the message says how to install it.
        FileNotFoundError: The package is installed but this version does not ship the file.
    """
    images = {}
    for name in PHOTOGRAPHS if names is None else names:
        if name not in PHOTOGRAPHS:
            raise KeyError(f"no photograph is called '{name}'; there are: {', '.join(PHOTOGRAPHS)}")
        images[name] = read_image(_locate(name, PHOTOGRAPHS[name]), bit_depth="8")
    return images


def _locate(name: str, photograph: PackagedPhotograph) -> Path:
    # find_spec looks the folder up without running the package's code, which for scikit-learn takes seconds.
    spec = importlib.util.find_spec(photograph.package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the photograph '{name}' is part of {photograph.install}, which is not installed: "
            f"python -m pip install {photograph.install}"
        )
    path = Path(spec.origin).parent / photograph.file
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: this version of {photograph.install} does not ship the photograph '{name}'; "
            f"try another: python -m pip install --upgrade {photograph.install}"
        )
    return path
