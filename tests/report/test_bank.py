"""Tables and pictures of a parameter bank."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from semiisp_plugin.isp import InvertibleISP, ISPSpec, ParameterBank
from semiisp_plugin.isp.parameters import XYZ_TO_SRGB
from semiisp_plugin.report import bank as report
from semiisp_plugin.report.bank import bank_table, describe_bank, plot_bank, report_banks

ISP = ISPSpec()
IE = ISPSpec(inverse_tone_mapping=True, gamma_start=1.0)
XYZ = ISPSpec(tie_xy=False, base_matrix=XYZ_TO_SRGB)
EVERYTHING = ISPSpec(tie_xy=False, inverse_tone_mapping=True, it_sign=-1)


def make_bank(spec: ISPSpec, n: int = 40, grid: tuple[int, int] = (1, 1), spread: float = 0.5) -> ParameterBank:
    bank = ParameterBank(spec, 2 * n, grid)
    generator = torch.Generator().manual_seed(n)
    bank.append(spec.squash(spread * torch.randn(n, spec.n_parameters, *grid, generator=generator)))
    return bank


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1].astype(int)


def coloured(image: np.ndarray) -> list[int]:
    """Pixels that are clearly red, green, blue."""
    others = [np.delete(image, c, axis=2).max(2) for c in range(3)]
    return [int((image[..., c] > other + 40).sum()) for c, other in enumerate(others)]


@pytest.mark.slow
@pytest.mark.filterwarnings("error", "ignore:.*deprecated.*use:DeprecationWarning")  # matplotlib 3.8 of pyparsing 3.3
@pytest.mark.parametrize(
    ("bank", "rows"),
    [
        (make_bank(ISP), 4),
        (make_bank(IE, grid=(4, 3)), 5),
        (make_bank(XYZ, grid=(2, 2)), 4),
        (make_bank(EVERYTHING, spread=30.0), 5),  # everything at the ends of its domain
        (make_bank(IE, n=1), 5),
        (make_bank(ISP, n=3, grid=(2, 2), spread=0.0), 4),
    ],
    ids=["ISP", "IE local", "XYZ local", "saturated", "single set", "constant"],
)
def test_pictures_of_every_kind_of_bank(bank, rows, tmp_path):
    path = tmp_path / "new folder" / "bank.png"
    plot_bank(bank, path)
    image = read(path)
    assert image.shape[0] > 200 * rows
    assert (image[0] == 255).all()  # paper
    drawn = [pixels > 20 for pixels in coloured(image)]
    assert all(drawn) or ((bank.sets == bank.sets[:1]).all() and any(drawn))  # they may lie on one another
    assert (image.max(2) < 60).sum() > 5000  # text, axes and starting values
    for band in np.array_split(image, rows):  # the first panel and the last of each row
        assert all((part.max(2) < 100).mean() > 0.002 for part in np.array_split(band, 4, axis=1)[::3])
    assert [p.name for p in path.parent.iterdir()] == ["bank.png"]


@pytest.mark.slow
def test_a_picture_shows_where_the_values_lie(tmp_path):
    """Where only green's gamma g1 differs, its panels differ and no others; matplotlib's settings stay as they were."""
    before, backend = dict(matplotlib.rcParams), matplotlib.get_backend()
    still = make_bank(ISP, spread=0.0)
    sets = still.sets
    ISP.split(sets)["gm"]["g1"][:, 1] = 1.0
    moved = ParameterBank(ISP, 80)
    moved.append(sets)
    plot_bank(still, tmp_path / "still.png")
    plot_bank(moved, tmp_path / "moved.png")
    changed = (read(tmp_path / "still.png") != read(tmp_path / "moved.png")).any(2)
    rows = [int(part.sum()) for part in np.array_split(changed, 4)]
    assert rows[2] > 5 * max(rows[0], rows[1], rows[3])  # gamma tone mapping is the third of four
    assert (dict(matplotlib.rcParams), matplotlib.get_backend()) == (before, backend)


@pytest.mark.slow
def test_other_formats_and_failures(tmp_path):
    bank = make_bank(ISP, n=2)
    plot_bank(bank, tmp_path / "bank.SVG")
    assert "<svg" in (tmp_path / "bank.SVG").read_text()
    (tmp_path / "bank.svgz9").write_text("older")
    with pytest.raises(ValueError, match="svgz9"):
        plot_bank(bank, tmp_path / "bank.svgz9")
    assert (tmp_path / "bank.svgz9").read_text() == "older"
    with pytest.raises(ValueError, match="train f_ISP first"):
        plot_bank(ParameterBank(ISP, 3), tmp_path / "empty.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank.SVG", "bank.svgz9"]


@pytest.mark.parametrize("spec", [ISP, IE, XYZ, EVERYTHING], ids=[36, 45, 42, 51])
def test_curves_are_those_of_the_isp(spec):
    """What is drawn, put together again, is what f_ISP does."""
    sets = make_bank(spec, n=5).sets
    image = 0.1 + 0.15 * torch.rand(5, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    expected = InvertibleISP(spec).forward(image, sets).double().numpy()

    def through(x: np.ndarray, curves: np.ndarray) -> np.ndarray:
        levels = np.linspace(0, 1, curves.shape[2])
        flat = [
            np.interp(c, levels, curve) for c, curve in zip(x.reshape(15, 6, 7), curves.reshape(15, -1), strict=True)
        ]
        return np.reshape(flat, x.shape)

    x = image.double().numpy()
    if spec.inverse_tone_mapping:
        x = through(x, report.curves(spec, sets, ("it",)))
    p = spec.split(sets.double())["cc"]
    mixing = torch.eye(3, dtype=torch.float64).repeat(len(sets), 1, 1)
    mixing[:, ~torch.eye(3, dtype=torch.bool)] = p["o"][:, :, 0, 0]
    matrices = mixing * p["gain"][:, None, :, 0, 0] @ torch.tensor(spec.base_matrix, dtype=torch.float64)
    x = np.einsum("nij,njhw->nihw", matrices.numpy(), x).clip(0, 1)
    found = through(x, report.curves(spec, sets, ("ga", "gm", "cs")))
    # Straight lines between 129 points miss a corner by its change of slope, up to 2 here, times 1 / 128 / 4; near 0,
    # where a gamma is steep, by more.
    away_from_0 = x > 0.05
    assert away_from_0.mean() > 0.3
    assert np.abs(found - expected)[away_from_0].max() < 4e-3


def test_curves_of_neutral_functions_are_straight():
    for spec in (ISP, IE, XYZ, EVERYTHING):
        curve = report.curves(spec, make_bank(spec, n=2).sets, ())
        np.testing.assert_allclose(curve, np.broadcast_to(np.linspace(0, 1, curve.shape[2]), curve.shape), atol=1e-6)


def test_curves_are_of_all_positions():
    """Of 600 x 4 positions, 500 are drawn, from every corner and all over the bank."""
    bank = ParameterBank(ISP, 600, (2, 2))
    bank.append(torch.arange(2400.0).view(600, 1, 2, 2).expand(600, 36, 2, 2))
    some = report.some_positions(bank.sets)
    assert some.shape == (500, 36, 1, 1)
    assert (some == some[:, :1]).all()
    numbers = some[:, 0, 0, 0].long()
    assert len(numbers.unique()) == 500
    assert (np.bincount(numbers % 4) > 90).all()
    assert (np.bincount(numbers // 240) > 30).all()
    few = report.some_positions(bank.sets[:3])
    assert sorted(few[:, 0, 0, 0].tolist()) == list(range(12))


@pytest.mark.parametrize("spec", [ISP, IE, XYZ, EVERYTHING], ids=[36, 45, 42, 51])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_table(spec, grid):
    bank = make_bank(spec, grid=grid, spread=20.0)
    lines = bank_table(bank).splitlines()
    assert len(lines) == 2 + spec.n_parameters
    assert max(map(len, lines)) <= 120
    titles = lines[0].split()
    assert titles[:3] == ["parameter", "channel", "domain"]
    assert ("between" in titles, "within" in titles) == ((True, True) if grid == (2, 2) else (False, False))
    for line, row in zip(lines[2:], bank.statistics(), strict=True):
        function, parameter, channel, domain, *numbers = line.split()
        assert (function, parameter, channel) == (row.function, row.parameter, row.channel)
        assert [float(end) for end in domain.split("..")] == pytest.approx([row.low, row.high], rel=5e-3)
        values = [row.start, row.min, row.p5, row.median, row.p95, row.max, row.mean, row.std, row.at_low + row.at_high]
        values += [row.between_images, row.within_image] if grid == (2, 2) else []
        assert [float(number) for number in numbers] == pytest.approx(values, abs=5.1e-4)


def test_heading():
    bank = make_bank(IE, n=2, grid=(3, 4))
    assert describe_bank(bank, "local") == (
        "Parameter bank 'local': 2 sets (capacity 4), grid 3x4, image enhancement with 45 parameters"
    )
    one = ParameterBank(ISP, 7)
    one.append(torch.full((2, 36, 1, 1), float("nan")))
    one.append(make_bank(ISP, n=1).sets)
    assert describe_bank(one) == (
        "Parameter bank: 1 set (capacity 7), grid 1x1, ISP with 36 parameters, 2 non-finite sets left out"
    )


@pytest.mark.slow
def test_report(tmp_path, capsys):
    banks = {"local": make_bank(XYZ, n=3, grid=(1, 2)), "global": make_bank(XYZ, n=2)}
    written = report_banks(banks, 6, tmp_path / "a" / "b")
    assert [p.name for p in written] == ["bank_global.png", "bank_local.png", "bank.json"]
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == sorted(p.name for p in written)
    content = json.loads(written[-1].read_text())
    assert content["n_pairs"] == 6
    assert list(content["banks"]) == ["global", "local"]
    for label, bank in banks.items():
        values = content["banks"][label]
        assert values["statistics"] == [asdict(row) for row in bank.statistics()]  # all digits
        assert ISPSpec.from_dict(values["spec"]) == XYZ
        assert (values["sets"], values["capacity"], values["grid"]) == (len(bank), bank.capacity, list(bank.grid))
    output = capsys.readouterr().out
    assert output.index("bank 'global': 2 sets") < output.index("bank 'local': 3 sets")
    assert output.count("trained on 6 pairs") == 2
    assert output.count("cc gain") == 6
    assert max(map(len, output.split("Written")[0].splitlines())) <= 120

    # Again, over what is there.
    before = written[0].read_bytes()
    report_banks({"global": banks["global"]}, 1, tmp_path / "a" / "b", "global")
    assert written[0].read_bytes() != before  # its heading now says 1 pair
    assert "trained on 1 pair\n" in capsys.readouterr().out
    assert list(json.loads(written[-1].read_text())["banks"]) == ["global"]


def test_report_errors_come_before_any_file(tmp_path):
    banks = {"global": make_bank(ISP, n=2), "local": ParameterBank(ISP, 3, (2, 2))}
    with pytest.raises(ValueError, match="bank 'local' is empty"):
        report_banks(banks, 6, tmp_path / "out")
    with pytest.raises(ValueError, match=r"no parameter bank 'local'; there are: global"):
        report_banks({"global": banks["global"]}, 6, tmp_path / "out", "local")
    with pytest.raises(ValueError, match="there are: none"):
        report_banks({}, 6, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file cannot be written .*another folder with --out"):
        report_banks({"global": banks["global"]}, 6, tmp_path / "file")
