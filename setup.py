"""Packaging of semiisp_plugin (tool settings live in pyproject.toml, exact pins in constraints.txt)."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
# Read as text: importing the package here would need torch and BasicSR installed already.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "semiisp_plugin/_version.py").read_text(), re.MULTILINE)[1]

# BasicSR asks for torch, torchvision, OpenCV, scikit-image, SciPy, Pillow, PyYAML, requests and tqdm by itself; what
# the plugin imports directly is named here all the same, with the oldest version it is written for.
# TensorBoard is left out on purpose: BasicSR requires `tb-nightly`, which installs into the same `tensorboard` folder
# as the release, and with both the one installed last overwrites the other. pip users get BasicSR's nightly, users of
# the Makefile the release (see overrides.txt), which works from 2.15 on.
REQUIRES = [
    "basicsr==1.4.2",
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=1.26",
    "scipy>=1.12",
    "opencv-python>=4.8",
    "simplejpeg>=1.7.2",
    "Pillow>=10.1",
    "scikit-image>=0.22",
    "tifffile>=2024.8.30",
    "lmdb>=1.4",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "PyYAML>=6.0",
    "msgspec>=0.18",
    "safetensors>=0.4",
    "tabulate>=0.10",
    "tqdm>=4.64",
]
# Compiles the ISP, its inverse and 3D tables to machine code (isp/numba_kernels.py); without it the same by tensors.
FAST = ["numba>=0.60"]
# Reads camera RAW files (`basicsr prepare`).
RAW = ["rawpy>=0.25"]
# Reads HEIC photographs, as telephones make them.
HEIF = ["pillow-heif>=0.22"]
# LPIPS, the learned perceptual metric (`calculate_lpips`).
LPIPS = ["lpips>=0.1.4"]
# The page of `basicsr serve`; pages of earlier versions (6.0) ask a CDN for a script. Not among the tests' needs: it
# holds Pillow back to an older version.
SERVE = ["gradio>=6.31"]
# `basicsr export --format onnx`.
ONNX = ["onnx>=1.16", "onnxscript>=0.3", "onnxruntime>=1.18"]
# The documentation as a site (`make docs`).
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]
TEST = [
    *FAST,
    *RAW,
    *HEIF,
    *LPIPS,
    *ONNX,
    *DOCS,
    "pytest>=8",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "colour-science>=0.4.4",
    "spandrel>=0.4.2",
    "piexif>=1.1.3",
    "ruff>=0.17",
    "mypy>=1.13",
    "types-PyYAML>=6.0.12",
    "types-tabulate>=0.9",
]

setup(
    name="semiisp_plugin",
    version=VERSION,
    description="Semi-supervised learning for learned ISPs and image enhancement, as a plugin for BasicSR",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["semiisp_plugin", "semiisp_plugin.*"]),
    package_data={
        "semiisp_plugin": ["py.typed", "report/*.j2", "experiments/*.yml", "data/name_lists/*.txt", "simulation/cc0/*"]
    },
    install_requires=REQUIRES,
    extras_require={
        "fast": FAST,
        "test": TEST,
        "docs": DOCS,
        "cupy": ["cupy-cuda12x"],
        "raw": RAW,
        "heif": HEIF,
        "lpips": LPIPS,
        "onnx": ONNX,
        "serve": SERVE,
    },
    entry_points={"console_scripts": ["basicsr = semiisp_plugin.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
