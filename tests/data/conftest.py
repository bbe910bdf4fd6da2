"""What all tests of data sets need."""

import pytest

from semiisp_plugin.io.lmdb_io import close_all


@pytest.fixture(autouse=True)
def _closed_environments():
    yield
    close_all()
