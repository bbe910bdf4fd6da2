"""Option files of ``basicsr pseudo``."""

import os

import pytest

from semiisp_plugin.options import OptionError, load_pseudo_options


def test_pseudo_options(option_files, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    path = option_files.pseudo(out="~/pseudo", short_side=480)
    options = load_pseudo_options(path, ["sets=local", "max_photographs=3"])
    assert (options.sets, options.max_photographs, options.short_side) == ("local", 3, 480)
    assert options.out == "/home/somebody/pseudo"
    assert (options.manual_seed, options.update_quality, options.png_compression) == (0, True, "fast")
    assert (options.source, options.draws) == ("bank", 1)
    for override, message in (
        ("sets=globl", "sets: 'globl' is none of the choices; did you mean 'global'. Choose auto, global or local"),
        ("png_compression=12", "png_compression: expected a whole number from 0 to 9, got 12"),
        ("short_sid=3", r"short_sid: unknown key; did you mean 'short_side'\?"),
        ("update_quality=maybe", "update_quality: expected true or false, got the text 'maybe'"),
    ):
        with pytest.raises(OptionError, match=message):
            load_pseudo_options(path, [override])


def test_sources_of_the_pseudo_data(option_files):
    path = option_files.pseudo()
    for source in ("upi", "deterministic"):
        options = load_pseudo_options(path, [f"source={source}", "sets=global"])
        assert options.source == source
    assert load_pseudo_options(path, ["source=upi", "draws=4"]).draws == 4
    learned = load_pseudo_options(path, ["source=network", "source_network=~/net_g_latest.pth"])
    assert learned.source_network == os.path.expanduser("~/net_g_latest.pth")
    assert load_pseudo_options(path, ["source=mixture", "sets=local"]).sets == "local"
    for overrides, message in (
        (["source=cyclegan"], "source: 'cyclegan' is none of the choices. Choose bank, mixture, upi, "),
        (["draws=0"], "draws: expected a whole number from 1 to 1,000,000,000, got"),
        (["source=upi", "sets=local"], "sets: source: upi knows no local sets"),
        (["source=deterministic", "sets=local"], "sets: source: deterministic knows no local sets"),
        (["source=upi", "inverse=paper_lut"], "inverse: source: upi does not invert f_ISP"),
        (["candidates=4", "mode=online"], "candidates: they are compared on whole pictures"),
        (["mode=keys", "png_compression=3"], "png_compression: mode: keys stores no images"),
        (["source=network"], "source: give source_network, the net_g_"),
        (["source_network=net.pth"], "source_network: is for source: network, and that is bank"),
        (["source=network", "source_network=n.pth", "sets=local"], "sets: source: network knows no local sets"),
        (["source=network", "source_network=n.pth", "inverse=paper_lut"], "inverse: source: network does not invert"),
        (["source=deterministic", "draws=2"], "draws: source: deterministic makes the same pair"),
    ):
        with pytest.raises(OptionError, match=message):
            load_pseudo_options(path, overrides)
