"""``scripts/draw_simulation.py``, through its ``main()`` and its parts."""

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import load_script

from semiisp_plugin.io.image_io import read_image, to_tensor, to_uint8, write_image
from semiisp_plugin.isp import InvertibleISP, ISPSpec
from semiisp_plugin.simulation.camera import expose
from semiisp_plugin.simulation.look import DEFAULT_LOOK, apply_look

NAMES = ("sensors", "chain", "looks", "family")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("draw_simulation")


@pytest.fixture
def picture() -> np.ndarray:
    """All colours, a white corner and a black one."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, 4, 5)))
    image = torch.nn.functional.interpolate(coarse, size=(60, 90), mode="bilinear", align_corners=True)
    image = to_uint8(image[0].permute(1, 2, 0).numpy())
    image[:15, -20:], image[-15:, :20] = 255, 0
    return image


WIDTH = 60


@pytest.fixture
def small(script, picture) -> torch.Tensor:
    return script.at_width(picture, WIDTH)


def cell_of(column: int) -> slice:
    """Where a column of pictures lies: those of `small`, 6 pixels apart, without row titles."""
    return slice(6 + (WIDTH + 6) * column, (WIDTH + 6) * (column + 1))


def differing(one: Path, other: Path) -> np.ndarray:
    """Which pixels of two pictures differ."""
    return (read_image(one) != read_image(other)).any(2)


@pytest.mark.slow
def test_pictures_and_table(script, picture, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "STEPS", 4)
    write_image(tmp_path / "photograph.png", picture)
    out = tmp_path / "new" / "folder"
    script.main(["--photograph", str(tmp_path / "photograph.png"), "--out", str(out)])
    output = capsys.readouterr().out
    for name in NAMES:
        path = out / f"simulation_{name}.jpg"
        assert str(path) in output
        assert path.stat().st_size < 250_000
        drawn = read_image(path)
        assert drawn.shape[1] > 800
        # Every quarter is drawn on.
        for half in np.array_split(drawn, 2):
            for quarter in np.array_split(half, 2, axis=1):
                assert quarter.astype(float).std() > 10
    rows = re.findall(r"^(\+ [^0-9]+|sensor [^0-9]+?) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", output, re.MULTILINE)
    assert [row[0].strip() for row in rows] == list(script.cameras())
    for _, one_set, _, grid, _ in rows:
        assert float(grid) >= float(one_set)  # it begins there


def test_without_a_photograph_one_that_ships(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "STEPS", 1)
    seen = []
    monkeypatch.setattr(script, "draw_sensors", lambda path, photograph: seen.append(photograph))
    script.main(["--out", str(tmp_path)])
    shipped = script.load_photographs([script.PHOTOGRAPH])[script.PHOTOGRAPH]
    assert torch.equal(seen[0], script.at_width(shipped, seen[0].shape[2]))


def test_stages_are_those_of_the_camera(script, picture):
    photograph = to_tensor(picture)
    # Bright, so that the shoulder has something to do.
    capture = script.OVEREXPOSED
    chain = script.stages(photograph, capture)
    assert torch.equal(chain[-1].image, expose(photograph[None], capture))
    silent = replace(capture, shot=0.0, read=0.0)
    assert torch.equal(chain[4].image, expose(photograph[None], silent))
    bent = expose(photograph[None], replace(silent, black=(0.0, 0.0, 0.0)))
    torch.testing.assert_close(chain[3].image, bent, rtol=0, atol=1e-6)
    straight = chain[2].image
    assert straight.max() > 1 >= bent.max()
    below = straight < capture.knee
    torch.testing.assert_close(straight[below], bent[below], rtol=0, atol=1e-6)
    # Fall-off is a factor, the same in all channels.
    factor = chain[1].image / chain[0].image.clamp_min(1e-9)
    bright = chain[0].image.amin(1) > 1e-3
    torch.testing.assert_close(factor[:, 0][bright], factor[:, 2][bright], rtol=1e-5, atol=0)
    assert factor.max() <= 1
    assert factor[:, 1][bright].min() < 0.75


def test_a_change_of_the_light_is_seen_in_its_row(script, small, tmp_path, monkeypatch):
    script.draw_sensors(tmp_path / "a.png", small)
    monkeypatch.setattr(script, "TEMPERATURES", (3500.0, 5000.0, 6500.0))
    script.draw_sensors(tmp_path / "b.png", small)
    changed = np.flatnonzero(differing(tmp_path / "a.png", tmp_path / "b.png").any(1))
    # The last row: its 20 lines of pictures and the caption below them.
    assert changed.min() > 0.6 * len(read_image(tmp_path / "a.png"))
    assert len(changed) >= 20


@pytest.mark.parametrize(
    ("change", "first"), [({"fall_off": 0.0}, 2), ({"temperature": 7500.0}, 3), ({"shot": 0.0, "read": 0.0}, 6)]
)
def test_a_change_of_the_camera_is_seen_from_its_step_on(script, small, tmp_path, change, first):
    script.draw_chain(tmp_path / "a.png", small)
    script.draw_chain(tmp_path / "b.png", small, replace(script.OVEREXPOSED, **change))
    changed = differing(tmp_path / "a.png", tmp_path / "b.png")
    # The picture after step k is number k, four in a row; the second row of pictures begins behind the middle.
    halves = np.array_split(changed, 2)
    for number in range(7):
        cell = halves[number // 4][:, cell_of(number % 4)]
        assert cell.sum() > 300 if number >= first else not cell.any()


def test_a_change_of_a_look_is_seen_in_its_column(script, small, tmp_path, monkeypatch):
    script.draw_looks(tmp_path / "a.png", [small, small.flip(2)])
    monkeypatch.setitem(script.LOOKS, "punchy", DEFAULT_LOOK)
    script.draw_looks(tmp_path / "b.png", [small, small.flip(2)])
    changed = differing(tmp_path / "a.png", tmp_path / "b.png").any(0)
    position = sorted(script.LOOKS, key=lambda name: name != "neutral").index("punchy")
    columns = np.flatnonzero(changed)
    assert columns.min() >= cell_of(position).start
    assert columns.max() < cell_of(position).stop
    assert len(columns) > 25


@pytest.mark.slow
def test_search_finds_an_f_isp_that_is_there(script, small):
    """From where training starts; now and then it ends in a local minimum, which is why there are several starts."""
    spec, found = ISPSpec(), []
    raw = 0.05 + 0.4 * small[None].double()
    for seed in range(3, 6):
        z = torch.randn(1, spec.n_parameters, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        target = InvertibleISP(spec).forward(raw, spec.squash(0.3 * z))
        _, fit = script.descend(torch.zeros_like(z), raw, target, spec)
        torch.testing.assert_close(fit.errors, (fit.output - target[0]).abs().amax(0), rtol=0, atol=1e-12)
        rms = 10 ** (-fit.psnr / 20)
        assert rms == pytest.approx((fit.output - target[0]).square().mean().sqrt().item())
        found.append(fit.psnr)
    assert min(found) > 35
    assert np.median(found) > 50


@pytest.mark.slow
def test_fall_off_and_noise_are_outside_of_the_family(script, small, monkeypatch):
    monkeypatch.setattr(script, "STEPS", 60)
    fits = {name: script.fit_pair(name, small, *with_) for name, with_ in script.cameras().items()}
    plain, *_, fallen, noisy = fits.values()
    assert plain.whole.psnr > 38
    assert plain.whole.psnr > fallen.whole.psnr + 5 > noisy.whole.psnr + 5
    for fit in fits.values():
        assert fit.local.psnr >= fit.whole.psnr
    torch.testing.assert_close(
        fallen.target, apply_look(small[None].double(), script.LOOKS[script.LOOK_OF_PAIRS])[0], rtol=0, atol=0
    )


def test_errors(script, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(["--photograph", str(tmp_path / "nowhere.png"), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert "nowhere.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
