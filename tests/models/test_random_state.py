"""The state of the global generators: taken, saved, put back."""

import random

import numpy as np
import torch

from semiisp_plugin.models.random_state import capture_rng, restore_rng
from semiisp_plugin.training.run import set_seed


def draw() -> list[float]:
    """From all three, Gaussians included: ``random`` and ``numpy`` make those in pairs and keep the second one."""
    return [
        *(random.random(), random.gauss(0, 1), random.getrandbits(70)),
        *(np.random.rand(), np.random.randn(), np.random.randint(1000)),
        *(torch.rand(()).item(), torch.randn(()).item(), torch.randint(1000, ()).item()),
    ]


def test_state_survives_a_file(tmp_path):
    draw()
    torch.save({"rng": capture_rng()}, tmp_path / "state")
    expected = [draw() for _ in range(3)]
    set_seed(5)
    assert [draw() for _ in range(3)] != expected
    restore_rng(torch.load(tmp_path / "state", weights_only=True)["rng"])
    assert [draw() for _ in range(3)] == expected


def test_states_of_gpus(device, tmp_path):
    """A state taken where GPUs were used is restored without them, and on them."""
    values = torch.rand(2, device=device)  # initialises CUDA
    state = capture_rng()
    assert bool(state["cuda"]) == torch.cuda.is_initialized()
    torch.save(state, tmp_path / "state")
    expected = torch.rand(2, device=device)
    assert not torch.equal(values, expected)
    restore_rng(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(torch.rand(2, device=device), expected)
    if device == "cpu":
        restore_rng({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)] if not torch.cuda.is_available() else []})
