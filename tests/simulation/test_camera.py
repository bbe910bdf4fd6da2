"""The simulated camera obeys the physics it is made of, and its generator alone."""

from __future__ import annotations

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from semiisp_plugin.simulation.camera import (
    SENSORS,
    Capture,
    SimulatedCamera,
    channel_gains,
    darken,
    expose,
    fall_off,
    saturate,
)
from semiisp_plugin.simulation.colour import srgb_to_linear

CAMERA = SimulatedCamera()


def _photograph(seed: int = 0, n: int = 2, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


def _captures(n: int, camera: SimulatedCamera = CAMERA, seed: int = 1) -> list[Capture]:
    generator = torch.Generator().manual_seed(seed)
    return [camera.draw_capture(generator) for _ in range(n)]


def test_captures_are_within_the_ranges_and_fill_them() -> None:
    captures = _captures(400)
    for name in ("temperature", "tint", "exposure", "dark_exposure", "knee", "shot", "read", "fall_off"):
        low, high = getattr(CAMERA, name)
        drawn = [getattr(capture, name) for capture in captures]
        # By ratio where the draw is logarithmic or reciprocal, by difference elsewhere.
        assert min(drawn) >= low * (1 - 1e-12) if low > 0 else min(drawn) >= low
        assert max(drawn) <= high * (1 + 1e-12) if high > 0 else max(drawn) <= high
        assert min(drawn) < low + 0.05 * (high - low)
        assert max(drawn) > high - 0.05 * (high - low)
    assert {capture.sensor for capture in captures} == set(SENSORS)
    assert len({capture.noise_seed for capture in captures}) == len(captures)
    assert len(set(captures[0].black)) == 3


def test_same_generator_state_same_capture_same_images() -> None:
    (one,), (other,) = _captures(1, seed=5), _captures(1, seed=5)
    assert one == other
    image = _photograph()
    torch.manual_seed(0)
    first = expose(image, one), darken(image, one)
    torch.manual_seed(99)
    again = expose(image, other), darken(image, other)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert astuple(_captures(1, seed=6)[0]) != astuple(one)


def test_range_of_one_camera_does_not_disturb_the_draw_of_another() -> None:
    quiet = SimulatedCamera(shot=(0, 0), read=(0, 0), sensors=("compact",))
    for ours, theirs in zip(_captures(3), _captures(3, quiet), strict=True):
        assert theirs.shot == theirs.read == 0
        assert (ours.exposure, ours.temperature, ours.noise_seed) == (
            theirs.exposure,
            theirs.temperature,
            theirs.noise_seed,
        )


def test_outputs_are_images() -> None:
    image = _photograph()
    for capture in _captures(20):
        for output in (expose(image, capture), darken(image, capture)):
            assert output.shape == image.shape
            assert output.dtype == image.dtype
            assert output.min() >= 0
            assert output.max() <= 1


def test_one_stop_doubles_the_signal_below_the_knee() -> None:
    image = _photograph()
    for capture in _captures(8):
        capture = replace(capture, black=(0.0, 0.0, 0.0), shot=0.0, read=0.0, exposure=-3.0)
        less, more = expose(image, capture), expose(image, replace(capture, exposure=-2.0))
        linear = more < capture.knee
        assert linear.float().mean() > 0.9
        torch.testing.assert_close(more[linear], 2 * less[linear], rtol=1e-5, atol=1e-7)


def test_expose_matches_a_pixel_by_pixel_reference() -> None:
    image = _photograph(n=1, height=5, width=7)
    (capture,) = _captures(1, SimulatedCamera(shot=(0, 0), read=(0, 0), exposure=(0.5, 0.5)))
    raw = expose(image, capture)[0].double().numpy()

    sensor, gains = SENSORS[capture.sensor], channel_gains(capture).numpy()
    expected = np.empty_like(raw)
    for row in range(5):
        for column in range(7):
            y, x = -1 + 2 * row / 4 - capture.centre[0], -1 + 2 * column / 6 - capture.centre[1]
            light = [
                2**capture.exposure
                * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
                / (1 + capture.fall_off * (y * y + x * x) / 2) ** 2
                for v in image[0, :, row, column].tolist()
            ]
            for c in range(3):
                s = gains[c] * sensor.sensitivity[c] * sum(m * v for m, v in zip(sensor.matrix[c], light, strict=True))
                if s > capture.knee:
                    s = 1 - (1 - capture.knee) * np.exp(-(s - capture.knee) / (1 - capture.knee))
                expected[c, row, column] = capture.black[c] + (1 - capture.black[c]) * s
    assert (expected > capture.knee).any()
    np.testing.assert_allclose(raw, expected, atol=1e-6)


@pytest.mark.parametrize("knee", [0.3, 0.8, 0.92])
def test_saturation_is_smooth_and_bounded(knee: float) -> None:
    signal = torch.linspace(0, 6, 60001, dtype=torch.float64)
    output = saturate(signal, knee)
    assert torch.equal(output[signal <= knee], signal[signal <= knee])
    assert output.max() <= 1
    slope = output.diff() / signal.diff()
    assert (slope > -1e-12).all()
    # A kink would be a jump of the slope; one step of 1e-4 may change it by about step / room.
    assert slope.diff().abs().max() < 2 * 1e-4 / (1 - knee)


def test_neutral_light_leaves_grey_at_the_sensors_own_response() -> None:
    grey = torch.full((1, 3, 4, 4), 0.5)
    for name, sensor in SENSORS.items():
        raw = expose(grey, Capture(sensor=name))
        expected = srgb_to_linear(torch.tensor(0.5)) * torch.tensor(sensor.sensitivity)
        torch.testing.assert_close(raw[0, :, 0, 0], expected, rtol=1e-5, atol=0)


def test_warm_light_raises_red_and_lowers_blue() -> None:
    for name in SENSORS:
        warm = channel_gains(Capture(sensor=name, temperature=3000))
        cold = channel_gains(Capture(sensor=name, temperature=9000))
        assert warm[0] > 1 > warm[2] > 0
        assert 0 < cold[0] < 1 < cold[2]
        assert warm[1] == cold[1] == 1


@pytest.mark.parametrize("name", SENSORS)
def test_sensor_matrices_keep_neutral_and_are_invertible(name: str) -> None:
    matrix = np.array(SENSORS[name].matrix)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    assert (matrix > 0).all()
    assert np.linalg.cond(matrix) < 6
    assert max(SENSORS[name].sensitivity) == SENSORS[name].sensitivity[1] == 1


def test_fall_off_is_brightest_at_its_centre() -> None:
    share = fall_off(21, 41, Capture(fall_off=0.25))
    assert share.max() == share[10, 20] == 1
    assert float(share[0, 0]) == pytest.approx((1 + 0.25) ** -2)
    assert (share[10, 20:].diff() < 0).all()
    moved = fall_off(21, 41, Capture(fall_off=0.25, centre=(-0.5, 0.5)))
    assert divmod(int(moved.argmax()), 41) == (5, 30)


def test_noise_has_the_variance_it_states() -> None:
    grey = torch.full((1, 3, 200, 200), 0.6)
    clean = Capture(sensor="studio", exposure=-0.5)
    noisy = replace(clean, shot=4e-4, read=2e-5, noise_seed=3)
    mean = expose(grey, clean)[0, :, 0, 0]
    noise = expose(grey, noisy) - expose(grey, clean)
    measured = noise.var(dim=(0, 2, 3))
    # The standard error of a variance over 40,000 normal samples is 0.7 %.
    torch.testing.assert_close(measured, 4e-4 * mean + 2e-5, rtol=0.035, atol=0)
    assert noise.mean().abs() < 2e-4


def test_darken_is_dark_and_8_bit() -> None:
    image = _photograph()
    for capture in _captures(10):
        dark = darken(image, capture)
        assert dark.mean() < 0.5 * image.mean()
        torch.testing.assert_close(dark * 255, (dark * 255).round(), rtol=0, atol=1e-4)


def test_darken_at_full_exposure_returns_the_photograph() -> None:
    image = (_photograph() * 255).round() / 255 * 0.8
    image = (image * 255).round() / 255
    dark = darken(image, Capture(dark_exposure=0.0, balance_error=0.0, knee=0.95))
    torch.testing.assert_close(dark, image, rtol=0, atol=1e-6)


def test_balance_error_leaves_a_share_of_the_light_s_colour() -> None:
    grey = torch.full((1, 3, 4, 4), 0.9)
    light = Capture(temperature=3200, dark_exposure=-1.0)
    full, half = (
        srgb_to_linear(darken(grey, replace(light, balance_error=e)))[0, :, 0, 0].double() for e in (1.0, 0.5)
    )
    gains = channel_gains(light)
    torch.testing.assert_close(full / full[1], gains, rtol=0.02, atol=0)
    torch.testing.assert_close(half / half[1], gains.sqrt(), rtol=0.02, atol=0)
