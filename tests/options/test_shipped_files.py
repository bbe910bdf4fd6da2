"""The short option files that come with the plugin."""

from pathlib import Path

import pytest
import yaml

from semiisp_plugin.options import Loader, load_options, load_pseudo_options
from semiisp_plugin.toolbox import build_network

# Those of benchmarks are checked in tests/experiments/test_benchmark_options.py.
OPTION_FILES = sorted((Path(__file__).parents[2] / "options").glob("*.yml"))


def test_there_are_option_files():
    names = {path.stem for path in OPTION_FILES}
    assert {"fisp_lolv1", "pseudo_lolv1", "semiie_lolv1", "finetune_lolv1", "test_lolv1"} <= names


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: p.stem)
def test_committed_option_file(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    if "photographs" in yaml.safe_load(text):
        assert load_pseudo_options(path).name == path.stem
        return
    is_train = "train" in yaml.safe_load(text)
    options = load_options(path, root_path=str(tmp_path), is_train=is_train)
    assert options["name"] == path.stem
    networks = [key for key in options if key.startswith("network_")]
    assert networks
    for key in networks:
        network = build_network(options[key])
        assert sum(p.numel() for p in network.parameters()) > 0
    if is_train:
        assert type(options["train"]["optim_g"]["lr"]) is float
    assert not list(tmp_path.iterdir()), "checking options writes nothing"
    # Relative paths only: the files are for everybody.
    assert not any(str(value).startswith("/") for value in leaves(yaml.load(text, Loader)))


def leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value
