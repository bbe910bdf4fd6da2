"""The state of the global generators: taken, saved, put back; seeds from numbers."""

import random

import numpy as np
import pytest
import torch

from semiisp_plugin.models.random_state import capture_rng, draw_as_a_loader, reseed, restore_rng, seeded


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
    reseed(5)
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


def test_seeds_depend_on_each_number_and_its_place():
    def drawn(*numbers: int) -> tuple[float, ...]:
        with seeded(*numbers):
            return tuple(draw())

    seeds = [(), (0,), (0, 0), (1, 0), (0, 1), (2**32, 0), (1, 2), (12,), (-1,), (2**63,), (3, 1, 4), (4, 1, 3)]
    assert len({drawn(*numbers) for numbers in seeds}) == len(seeds)
    assert drawn(3, 1, 4) == drawn(3, 1, 4)
    reseed(3, 1, 4)
    assert tuple(draw()) == drawn(3, 1, 4)


def test_generators_go_on_after_the_block():
    reseed(1)
    expected = [draw(), draw()]
    reseed(1)
    with seeded(7):
        draw()
    found = [draw()]
    with pytest.raises(ZeroDivisionError), seeded(8):
        raise ZeroDivisionError
    assert [*found, draw()] == expected


def test_draw_of_a_loader():
    """One number, whatever the loader."""
    reseed(2)
    iter(torch.utils.data.DataLoader([1, 2, 3]))
    expected = torch.get_rng_state()
    reseed(2)
    draw_as_a_loader()
    assert torch.equal(torch.get_rng_state(), expected)
