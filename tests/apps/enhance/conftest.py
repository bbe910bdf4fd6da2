"""The writer of RAW files, which the tests of data have."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_SPEC = importlib.util.spec_from_file_location("dng_writer", Path(__file__).parents[1] / "data" / "conftest.py")
_DATA = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_DATA)


@pytest.fixture
def write_dng() -> Callable[..., Path]:
    """Write a DNG file: ``write_dng(path, mosaic, **options)``."""

    def write(path: Path, mosaic: np.ndarray, **options: Any) -> Path:
        path.write_bytes(_DATA.dng_bytes(mosaic, **options))
        return path

    return write
