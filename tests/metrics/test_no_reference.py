"""The score that compares candidates for pseudo-labels: its statistics by hand, its running means, its order."""

import numpy as np
import pytest
import torch

from semiisp_plugin.metrics.no_reference import TargetStatistics, closeness, image_statistics
from semiisp_plugin.registry import SCORE_REGISTRY


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 7, 5, generator=torch.Generator().manual_seed(seed))


def by_hand(image: np.ndarray) -> list[float]:
    grey = image.mean(0)
    steps = [
        np.hypot(grey[y, x + 1] - grey[y, x], grey[y + 1, x] - grey[y, x])
        for y in range(grey.shape[0] - 1)
        for x in range(grey.shape[1] - 1)
    ]
    means, spreads = ([f(channel) for channel in image] for f in (np.mean, np.std))
    return [*means, *spreads, np.mean(steps), (image.max(0) - image.min(0)).mean()]


def test_statistics():
    expected = [by_hand(image.double().numpy()) for image in images()]
    np.testing.assert_allclose(image_statistics(images()).numpy(), expected, rtol=1e-5)
    ramp = torch.stack([torch.tensor([[0.0, 0.3], [0.4, 0.7]])] * 2 + [torch.zeros(2, 2)])
    found = image_statistics(ramp[None])[0].tolist()  # grey steps of 0.2 and 0.8 / 3
    assert found[6:] == pytest.approx([1 / 3, 0.35])
    assert found[:3] == pytest.approx([0.35, 0.35, 0])


def test_closeness():
    """The spread 0 counts as 0.01: distances of 1, 3 and 2 spreads."""
    spread = torch.tensor([0.2, 0.1, 0.0])
    found = closeness(torch.tensor([[0.7, 0.2, 0.52], [0.5, 0.5, 0.5]]), torch.full((3,), 0.5), spread)
    assert found.tolist() == pytest.approx([-((14 / 3) ** 0.5), 0], rel=1e-5)


def test_running_means_are_of_all_targets():
    score = TargetStatistics()
    for part in images(12).split([5, 4, 3]):
        score.update(part)
    expected = np.array([by_hand(image.double().numpy()) for image in images(12)])
    np.testing.assert_allclose(score.mean.numpy(), expected.mean(0), rtol=1e-5)
    others = images(3, seed=1)
    spread = np.maximum(expected.std(0), 0.01)
    distances = (np.array([by_hand(image.double().numpy()) for image in others]) - expected.mean(0)) / spread
    np.testing.assert_allclose(score(others).numpy(), -np.sqrt((distances**2).mean(1)), rtol=1e-3)


def test_targets_that_are_not_finite_are_passed_over():
    score, other = TargetStatistics(), TargetStatistics()
    bad = images()
    bad[1, 0, 2, 2], bad[3, 1, 0, 0] = torch.nan, torch.inf
    score.update(bad)
    score.update(bad[1:2])
    other.update(images()[[0, 2]])
    assert all(torch.equal(a, b) for a, b in zip(score.buffers(), other.buffers(), strict=True))
    assert score(bad).isfinite().tolist() == [True, False, True, False]


def test_an_image_like_the_targets_is_better():
    score = TargetStatistics()
    targets = 0.3 + 0.4 * images(40)
    score.update(targets)
    like, other = 0.3 + 0.4 * images(9, seed=1), images(9, seed=1)
    for worse in (
        0.3 * like,
        like.mean(1, keepdim=True).expand_as(like),
        other,
        like.mean((2, 3), keepdim=True) + 0 * like,
    ):
        assert bool((score(like) > score(worse)).all())
    assert -2 < score(like).mean() < -0.5


def test_it_is_registered_and_can_be_saved():
    score = SCORE_REGISTRY.get("TargetStatistics")()
    score.update(images())
    again = TargetStatistics()
    again.load_state_dict(score.state_dict())
    assert torch.equal(again(images()), score(images()))
