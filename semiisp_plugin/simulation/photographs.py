"""Colour photographs that installed Python packages carry as sample data, read from the packages' own folders.

Nothing is downloaded: scikit-image, scikit-learn and matplotlib ship these files with their code. Their own loading
functions are not used, because some of them try the network first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiisp_plugin.io.image_io import read_image


class PackagedPhotograph(NamedTuple):
    """Where a photograph lies.

    Attributes:
        package: What pip calls the package.
        file: Its path among the installed packages.
        scene: What it shows; two photographs of one scene must not be told apart as training and test data.
    """

    package: str
    file: str
    scene: str


PHOTOGRAPHS: dict[str, PackagedPhotograph] = {
    "astronaut": PackagedPhotograph("scikit-image", "skimage/data/astronaut.png", "astronaut"),
    "chelsea": PackagedPhotograph("scikit-image", "skimage/data/chelsea.png", "chelsea"),
    "china": PackagedPhotograph("scikit-learn", "sklearn/datasets/images/china.jpg", "china"),
    "coffee": PackagedPhotograph("scikit-image", "skimage/data/coffee.png", "coffee"),
    "flower": PackagedPhotograph("scikit-learn", "sklearn/datasets/images/flower.jpg", "flower"),
    "grace_hopper": PackagedPhotograph(
        "matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", "grace_hopper"
    ),
    "motorcycle_left": PackagedPhotograph("scikit-image", "skimage/data/motorcycle_left.png", "motorcycle"),
    "motorcycle_right": PackagedPhotograph("scikit-image", "skimage/data/motorcycle_right.png", "motorcycle"),
    "rocket": PackagedPhotograph("scikit-image", "skimage/data/rocket.jpg", "rocket"),
}
"""Every photograph by name."""


def load_photographs(names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read photographs from the installed packages.

    Args:
        names: Keys of `PHOTOGRAPHS`; all by default.

    Returns:
        Name -> RGB image (H, W, 3) ``uint8``, in the order of ``names``. The shorter side is 300 to 512 pixels.

    Raises:
        FileNotFoundError: The package is not installed, or does not ship the file; the message says what to install.
    """
    images = {}
    for name in PHOTOGRAPHS if names is None else names:
        package, file, _ = PHOTOGRAPHS[name]
        # find_spec looks the folder up without running the package's code, which for scikit-learn takes seconds.
        spec = importlib.util.find_spec(file.partition("/")[0])
        path = Path(spec.origin).parents[1] / file if spec is not None and spec.origin is not None else Path(file)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the photograph '{name}' is part of {package}, which is not installed, or of another version: "
                f"python -m pip install --upgrade {package}"
            )
        images[name] = read_image(path, bit_depth="8")
    return images
