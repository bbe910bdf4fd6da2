"""The scripts of data preparation, through their ``main()``."""

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import lmdb
import msgspec
import numpy as np
import pytest
import torch
import yaml

from semiisp_plugin.archs.pqdynamicisp_arch import PQDynamicISP
from semiisp_plugin.io.image_io import decode_image, read_image, write_image
from semiisp_plugin.io.lmdb_io import close_all, read_meta, read_value
from semiisp_plugin.isp import ParameterBank
from semiisp_plugin.options import PseudoOptions
from semiisp_plugin.pseudo.f_isp import save_f_isp
from semiisp_plugin.toolbox import build_dataset

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _closed_environments():
    yield
    close_all()


def contents(folder: str) -> dict[str, bytes]:
    return {entry.key: read_value(folder, entry.key) for entry in read_meta(folder)}


def fails(capsys, main, argv: list[str], status: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == status
    return capsys.readouterr().err


# --- create_pair_lmdb ------------------------------------------------------------------------------------------------


@pytest.fixture
def pack():
    return load("create_pair_lmdb").main


def dataset(folder: str):
    return build_dataset(
        {
            "name": "packed",
            "type": "PairedRestorationDataset",
            "phase": "val",
            "dataroot_lq": f"{folder}/lq.lmdb",
            "dataroot_gt": f"{folder}/gt.lmdb",
            "io_backend": {"type": "lmdb"},
        }
    )


def test_packed_pairs_are_those_of_the_folders(pack, tiny_data, workspace, capsys):
    pack([str(tiny_data / "pairs"), "packed"])
    assert capsys.readouterr().out == "6 pairs written to packed\n"
    packed = dataset("packed")
    assert len(packed) == 6
    for item in (packed[i] for i in range(6)):
        for part, kind, top in (("lq", "input", 65535), ("gt", "target", 255)):
            original = read_image(tiny_data / "pairs" / kind / f"{item['key']}.png")
            assert np.iinfo(original.dtype).max == top
            np.testing.assert_array_equal((item[part] * top).round().permute(1, 2, 0).numpy(), original)
    for name, dtype in (("lq", np.uint16), ("gt", np.uint8)):
        for entry in read_meta(f"packed/{name}.lmdb"):
            # As BasicSR reads it: by the key of meta_info.txt, with any PNG decoder.
            value = np.frombuffer(read_value(f"packed/{name}.lmdb", entry.key), np.uint8)
            assert cv2.imdecode(value, cv2.IMREAD_UNCHANGED).dtype == dtype
            assert (entry.suffix, entry.shape) == (".png", (48, 64, 3))


def test_explicit_folders_template_and_compression(pack, tiny_data, workspace):
    for i in range(2):
        write_image(workspace / "dark" / f"{i}_low.png", read_image(tiny_data / "pairs" / "input" / f"0{i}.png"))
        write_image(workspace / "good" / f"{i}.png", read_image(tiny_data / "pairs" / "target" / f"0{i}.png"))
    options = ["--filename_tmpl", "{}_low", "--png_compression", "9"]
    pack(["--input", "dark", "--target", "good", *options, "packed"])
    for name in ("lq", "gt"):
        assert [(e.key, e.level) for e in read_meta(f"packed/{name}.lmdb")] == [("0", 9), ("1", 9)]


def test_packing_resumes(pack, tiny_data, workspace, monkeypatch, capsys):
    source = str(tiny_data / "pairs")
    pack([source, "unbroken"])
    module = load("create_pair_lmdb")
    reads = []

    def interrupted(pair):
        reads.append(pair)
        if len(reads) == 4:
            raise KeyboardInterrupt
        return read_pair(pair)

    read_pair = module.read_pair
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_pair", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module.main([source, "packed"])
    close_all()
    message = fails(capsys, module.main, [source, "packed"])
    assert "lq.lmdb' exists and is not empty" in message
    module.main([source, "packed", "--resume"])
    assert capsys.readouterr().out == "3 pairs written to packed\n"
    for name in ("lq.lmdb", "gt.lmdb"):
        assert contents(f"packed/{name}") == contents(f"unbroken/{name}")


def test_packing_errors(pack, tiny_data, workspace, capsys):
    assert "holds none of them" in fails(capsys, pack, [str(tiny_data), "packed"])
    assert "nowhere" in fails(capsys, pack, ["nowhere", "packed"])
    both = ["--input", "a", "--target", "b", "c", "packed"]
    for argv in (["packed"], ["--input", "a", "packed"], both):
        assert "give the folder of the pairs, or --input and --target" in fails(capsys, pack, argv, status=2)
    write_image("odd/input/1.png", np.zeros((8, 9, 3), np.uint8))
    write_image("odd/target/1.png", np.zeros((8, 8, 3), np.uint8))
    message = fails(capsys, pack, ["odd", "packed"])
    assert "differ in size" in message
    assert "odd/target/1.png" in message


# --- create_pseudo_lmdb ----------------------------------------------------------------------------------------------


@pytest.fixture
def create():
    return load("create_pseudo_lmdb")


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


def test_every_option_has_an_argument(create):
    known = {action.dest for action in create.build_parser()._actions} - {"help", "opt", "retry"}
    of_files = {"extends"}
    assert known == {field.name for field in msgspec.structs.fields(PseudoOptions)} - of_files


def test_arguments_do_what_an_option_file_does(create, f_isp, tiny_data, capsys):
    photographs = str(tiny_data / "photos")
    common = {"name": "x", "photographs": photographs, "f_isp": f_isp, "num_gpu": 0, "manual_seed": 4}
    Path("o.yml").write_text(yaml.safe_dump({**common, "out": "from file", "short_side": 40}))
    create.main(["-opt", "o.yml"])
    arguments = ["--photographs", photographs, "--f_isp", f_isp, "--num_gpu", "0", "--manual_seed", "4"]
    create.main([*arguments, "--short_side", "40", "--out", "by arguments"])
    output = capsys.readouterr().out
    assert "4 pairs of 5 photographs in from file, 4 of them by this run" in output
    assert "4 pairs of 5 photographs in by arguments, 4 of them by this run" in output
    assert "1 photographs were set aside" in output
    for name in ("gt.lmdb", "lq.lmdb"):
        assert contents(f"from file/{name}") == contents(f"by arguments/{name}")
    # An argument goes before the file's value.
    create.main(["-opt", "o.yml", "--out", "both", "--max_photographs", "2", "--no-update_quality"])
    few = contents("both/gt.lmdb")
    assert len(few) == 2
    assert all(value != contents("from file/gt.lmdb")[key] for key, value in few.items())
    create.main(["-opt", "o.yml"])
    assert "in from file, 0 of them by this run" in capsys.readouterr().out


def test_pseudo_errors(create, f_isp, tiny_data, capsys):
    photographs = str(tiny_data / "photos")
    main = create.main
    assert "arguments: the key 'f_isp' is missing" in fails(capsys, main, ["--photographs", photographs, "--out", "o"])
    full = ["--photographs", photographs, "--f_isp", f_isp, "--out", "o", "--num_gpu", "0"]
    assert "png_compression: expected a whole number <= 9" in fails(capsys, main, [*full, "--png_compression", "12"])
    assert "There is no folder 'nowhere'" in fails(capsys, main, [*full, "--photographs", "nowhere"])
    assert "no checkpoint" in fails(capsys, main, [*full, "--f_isp", "missing.pth"])
    assert "no option file" in fails(capsys, main, ["-opt", "missing.yml"])
    fails(capsys, main, [*full, "--sets", "few"], status=2)
    main(full)
    message = fails(capsys, main, [*full, "--input_bits", "8"])
    assert "o was begun with other settings (input_bits: 16 -> 8)" in message


# --- merge_lmdb, and what BasicSR reads of shards --------------------------------------------------------------------


@pytest.fixture
def sharded(create, f_isp, tiny_data) -> str:
    """A build of four pairs in two shards, both images of 8 bits."""
    photographs = str(tiny_data / "photos")
    arguments = ["--photographs", photographs, "--f_isp", f_isp, "--num_gpu", "0", "--out", "built"]
    create.main([*arguments, "--shard_size", "3", "--input_bits", "8"])
    return "built"


def test_merged_shards_are_a_plain_lmdb(sharded, capsys):
    merge = load("merge_lmdb")
    for name in ("gt", "lq"):
        before = contents(f"{sharded}/{name}.lmdb")
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
            load("merge_lmdb").main([f"{sharded}/{name}.lmdb", f"merged/{name}.lmdb"])
    opt = {"name": "x", "type": "PairedImageDataset", "phase": "val", "scale": 1, "io_backend": {"type": "lmdb"}}
    data = build_dataset({**opt, "dataroot_gt": f"{root}/gt.lmdb", "dataroot_lq": f"{root}/lq.lmdb"})
    assert len(data) == 4
    for i in range(4):
        item = data[i]
        for name in ("gt", "lq"):
            image = decode_image(read_value(f"{root}/{name}.lmdb", item[f"{name}_path"]), name=name)
            np.testing.assert_allclose(item[name].permute(1, 2, 0).numpy(), image / 255, atol=1e-6)
    assert not np.allclose(data[0]["gt"], data[0]["lq"])
