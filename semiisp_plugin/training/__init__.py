"""Training and testing; `train_pipeline` and `test_pipeline` stand in for BasicSR's functions of those names."""

from semiisp_plugin.training.loop import train, train_pipeline
from semiisp_plugin.training.testing import test, test_pipeline

__all__ = ["test", "test_pipeline", "train", "train_pipeline"]
