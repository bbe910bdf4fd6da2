"""The scripts of data preparation, through their ``main()``."""

from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from helpers import load_script, values_of

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.image_io import decode_image
from semiisp_plugin.io.lmdb_io import close_all, read_value
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.builder import run
from semiisp_plugin.pseudo.f_isp import save_f_isp
from semiisp_plugin.toolbox import build_dataset


def fails(capsys, main, argv: list[str], status: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == status
    return capsys.readouterr().err


@pytest.fixture
def f_isp(workspace) -> str:
    torch.manual_seed(0)
    network = {"type": "PQDynamicISP", "grid": [2, 2], "thumbnail": 32}
    net = PQDynamicISP(grid=[2, 2], thumbnail=32)
    banks = {"global": ParameterBank(net.spec, 3), "local": ParameterBank(net.spec, 3, (2, 2))}
    for bank in banks.values():
        bank.append(net.spec.squash(0.3 * torch.randn(3, 36, *bank.grid)))
    save_f_isp("f_isp_latest.pth", network, net.state_dict(), banks, 100)
    return "f_isp_latest.pth"


# --- merge_lmdb, and what BasicSR reads of shards --------------------------------------------------------------------


@pytest.fixture
def sharded(f_isp, tiny_data) -> str:
    """A build of four pairs in two shards, both images of 8 bits."""
    where = {"name": "x", "photographs": str(tiny_data / "photos"), "f_isp": f_isp, "out": "built"}
    run(PseudoOptions(**where, num_gpu=0, shard_size=3, input_bits=8), progress=False)
    return "built"


def test_merged_shards_are_a_plain_lmdb(sharded, capsys):
    merge = load_script("merge_lmdb")
    for name in ("gt", "lq"):
        before = values_of(f"{sharded}/{name}.lmdb")
        merge.main([f"{sharded}/{name}.lmdb", f"merged/{name}.lmdb"])
        close_all()
        with lmdb.open(f"merged/{name}.lmdb", readonly=True, lock=False) as environment, environment.begin() as reading:
            assert {key.decode(): value for key, value in reading.cursor()} == before
        lines = Path(f"merged/{name}.lmdb/meta_info.txt").read_text().splitlines()
        assert lines == Path(f"{sharded}/{name}.lmdb/meta_info.txt").read_text().splitlines()
        assert all(line.endswith(" 1") for line in lines)
    capsys.readouterr()
    merge.main([f"{sharded}/gt.lmdb", "merged/gt.lmdb"])
    assert "0 entries copied" in capsys.readouterr().out
    assert "no LMDB folder" in fails(capsys, merge.main, ["nowhere.lmdb", "x.lmdb"])


@pytest.mark.parametrize("folder", ["shards", "merged"])
def test_data_sets_of_basicsr_read_them(sharded, folder):
    root = sharded
    if folder == "merged":
        root = folder
        for name in ("gt", "lq"):
            load_script("merge_lmdb").main([f"{sharded}/{name}.lmdb", f"merged/{name}.lmdb"])
    opt = {"name": "x", "type": "PairedImageDataset", "phase": "val", "scale": 1, "io_backend": {"type": "lmdb"}}
    data = build_dataset({**opt, "dataroot_gt": f"{root}/gt.lmdb", "dataroot_lq": f"{root}/lq.lmdb"})
    assert len(data) == 4
    for i in range(4):
        item = data[i]
        for name in ("gt", "lq"):
            image = decode_image(read_value(f"{root}/{name}.lmdb", item[f"{name}_path"]), name=name)
            np.testing.assert_allclose(item[name].permute(1, 2, 0).numpy(), image / 255, atol=1e-6)
    assert not np.allclose(data[0]["gt"], data[0]["lq"])
