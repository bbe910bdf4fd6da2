"""``scripts/draw_isp.py``, through its ``main()``."""

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers import load_script

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.image_io import read_image, write_image
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.pseudo.f_isp import save_f_isp


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("draw_isp")


@pytest.fixture
def photograph(tmp_path) -> str:
    """Greys, which few sets clip, and a block of blue, which some do. Nothing near black, where rounding shows."""
    rng = np.random.default_rng(0)
    image = rng.integers(100, 140, (40, 60, 3), dtype=np.uint8)
    image[:10, :15] = (40, 40, 230)
    write_image(tmp_path / "photograph.png", image)
    return str(tmp_path / "photograph.png")


def save(path: Path, *, image_enhancement: bool, sets: int = 20) -> str:
    options = {"inverse_tone_mapping": image_enhancement, "grid": [2, 2], "thumbnail": 32}
    net = PQDynamicISP(**options)
    generator = torch.Generator().manual_seed(0)
    banks = {"global": ParameterBank(net.spec, 20), "local": ParameterBank(net.spec, 20, (2, 2))}
    if sets:
        for bank in banks.values():
            z = torch.randn(sets, net.spec.n_parameters, *bank.grid, generator=generator)
            bank.append(net.spec.squash(0.3 * z))
    save_f_isp(path, {"type": "PQDynamicISP", **options}, net.state_dict(), banks, 7)
    return str(path)


def rows_of(output: str) -> list[list[float]]:
    return [[float(v) for v in line.split()] for line in output.splitlines() if re.match(r" *\d+  ", line)]


@pytest.mark.slow
@pytest.mark.parametrize("image_enhancement", [False, True])
def test_pictures_and_table(script, photograph, tmp_path, capsys, image_enhancement):
    f_isp, out = save(tmp_path / "f_isp.pth", image_enhancement=image_enhancement), tmp_path / "new" / "folder"
    script.main(["--f_isp", f_isp, "--photograph", photograph, "--out", str(out)])
    output = capsys.readouterr().out
    assert ("image enhancement" in output) is image_enhancement
    assert "7 pairs), drawn with seed 0" in output
    for name in ("isp_functions.png", "isp_twelve_sets.jpg"):
        assert str(out / name) in output
        assert (out / name).stat().st_size < 250_000
        picture = read_image(out / name)
        assert min(picture.shape[:2]) > 800
        # Every quarter is drawn on.
        for half in np.array_split(picture, 2):
            for quarter in np.array_split(half, 2, axis=1):
                assert quarter.astype(float).std() > 10
    rows = rows_of(output)
    assert [row[0] for row in rows] == list(range(1, script.SETS + 1))
    for _, clipped, pixels, mean_others, max_others, mean_all, max_all in rows:
        assert clipped <= pixels
        assert mean_others <= max_others < 1e-5  # float32
        assert mean_all <= max_all
        assert (max_all > 1e-3) == (clipped > 0)
    assert {row[1] > 1 for row in rows} == {False, True}  # both kinds of sets were drawn


def test_the_seed_draws_the_sets(script, photograph, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "draw_functions", lambda path: None)
    f_isp, tables = save(tmp_path / "f_isp.pth", image_enhancement=False), []
    for seed in ("0", "1", "0"):
        script.main(["--f_isp", f_isp, "--photograph", photograph, "--out", str(tmp_path), "--seed", seed])
        tables.append(rows_of(capsys.readouterr().out))
    assert tables[0] == tables[2] != tables[1]
    # Without --photograph, the one that ships with the plugin.
    script.main(["--f_isp", f_isp, "--out", str(tmp_path)])
    assert len(rows_of(capsys.readouterr().out)) == script.SETS


def test_errors(script, photograph, tmp_path, capsys):
    def fails(*argv: str, status: int = 1) -> str:
        with pytest.raises(SystemExit) as stop:
            script.main([*argv, "--out", str(tmp_path / "out")])
        assert stop.value.code == status
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    message = fails(status=2)
    assert "--f_isp is missing" in message
    assert "basicsr demo" in message
    assert "demo_output/f_isp_latest.pth" in message
    assert "no checkpoint" in fails("--f_isp", str(tmp_path / "missing.pth"))
    f_isp = save(tmp_path / "f_isp.pth", image_enhancement=False)
    assert "nowhere.png" in fails("--f_isp", f_isp, "--photograph", str(tmp_path / "nowhere.png"))
    empty = save(tmp_path / "empty.pth", image_enhancement=False, sets=0)
    assert "bank is empty" in fails("--f_isp", empty, "--photograph", photograph)
