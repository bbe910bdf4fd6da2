"""Option files of ``basicsr benchmark``: presets, changes, and what is refused."""

import math

import numpy as np
import pytest
from helpers import ROOT

from semiisp_plugin.experiments.benchmark import check_effects
from semiisp_plugin.experiments.benchmark_options import PRESETS, learns_from_photographs, load_benchmark_options
from semiisp_plugin.options import OptionError, load_yaml

OPTIONS = sorted((ROOT / "options" / "benchmarks").glob("*.yml"))
BASE = """
name: b
tasks:
  t: {type: simulation, pairs: [8]}
  real: {type: pairs, pairs: [8], dataroot_lq: ., dataroot_gt: ., photographs: .}
systems:
  f_isp:
  supervised:
  paper:
  no_opf: {settings: {draws: 2}}
  own: {kind: semi, settings: {beta: 3.0}}
  best: {kind: choose, among: [supervised, own], group: chosen}
  mean: {kind: average, among: [supervised, f_isp], group: tried}
contrasts: [{title: gain, of: paper, over: [supervised]}]
"""


@pytest.fixture
def load(tmp_path):
    """Reads `BASE` with changes, written as for ``--force_yml``."""
    path = tmp_path / "b.yml"
    path.write_text(BASE)
    return lambda *changes: load_benchmark_options(path, changes)


def test_presets_and_changes(load):
    loaded = load()
    assert loaded.systems["no_opf"].settings == {"beta": math.inf, "draws": 2}  # settings are put together
    assert loaded.systems["own"].label == "own"
    assert PRESETS["no_opf"].settings == {"beta": math.inf}  # and the preset is left alone
    assert [learns_from_photographs(name, loaded.systems) for name in ("best", "mean", "own")] == [True, False, True]
    # Beta 1 (Table 6), whole sets, USQ, no noise, one draw, filter by the batch's own mean: nothing of ours.
    assert (PRESETS["paper"].settings, PRESETS["paper"].ours) == ({}, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("systems:superviced=", r"no system of that name; did you mean 'supervised'\?"),
        ("systems={paper: }", "without a supervised system"),
        ("systems:own:settings:bta=1", "systems:own:settings:bta: unknown key"),
        ("systems:own:kind=superb", "systems:own:kind"),
        ("systems:own=3", "give a section, or nothing"),
        ("systems:own:label=f_ISP", "another system has the label"),
        ("systems:own:among=[paper]", "systems:own:among: .* leave it out"),
        ("systems:own:settings:warm_start=true", "systems:own: warm_start .* add network: f_isp"),
        ("systems:own:settings:rounds=2", "systems:own: rounds .* add network: f_isp"),
        ("settings={network: f_isp, guided: true, warm_start: true}", "leave out warm_start and rounds"),
        ("settings={network: f_isp, guided: true, rounds: 2}", "leave out warm_start and rounds"),
        ("settings={online: true, guided: true}", "leave out online"),
        ("systems:own:settings={table_penalty: true, network: f_isp}", "f_isp has none; .* take one of .*SepLUT"),
        ("settings={table_penalty: true, network: {type: NAFNet}}", "NAFNet has none; leave it out"),
        ("settings={source: upi, lookalikes: 2}", "leave them out, or online, source and sets"),
        ("systems:best:among=[]", "systems:best:among: .* name two or more systems"),
        ("systems:mean:among=[paper]", "systems:mean:among: .* name two or more systems"),
        ("systems:best:among=[own, papper]", r"'papper' is none of the systems; did you mean 'paper'\?"),
        ("systems:best:among=[own, best]", "'best' is itself of the kind 'choose'"),
        ("systems:best:folds=9", "systems:best:folds: 9 folds of 8 pairs; use 8 or fewer"),
        ("settings={network: {type: SepLUTT}}", "settings:network:type: no network 'SepLUTT'"),
        ("settings={network: {type: SepLUT, rank: 3}}", "settings:network:rank: SepLUT has no such option"),
        ("seed=[1]", "unknown key; did you mean 'seeds'"),
        ("seeds=[]", "seeds: .*length"),
        ("seeds=[1, 1]", "seeds: a number stands there twice"),
        ("contrasts=[{title: x, of: papper, over: [own]}]", "'papper' .* did you mean 'paper'"),
        ("contrasts=[{title: x}]", "contrasts: the key 'of' is missing"),
        ("tasks={}", "tasks: .*length"),
        ("tasks:t=3", "tasks:t: expected a section, not the whole number 3"),
        ("tasks:t:pairs=[0]", "tasks:t:pairs: expected a whole number"),
        ("tasks:t:pairs=[]", "tasks:t:pairs: .*length"),
        ("tasks:t:pairs=[8, 8]", "tasks:t:pairs: a number stands there twice"),
        ("tasks:t:look=defalt", r"tasks:t:look: no look 'defalt'; did you mean 'default'\?"),
        ("tasks:t:photographs=nowhere", "tasks:t:photographs: there is no folder nowhere"),
        ("tasks:t:narrow=true", "tasks:t:narrow: .* makes its own pairs"),
        ("tasks:real:noise=true", "tasks:real:noise: .*simulates nothing"),
        ("tasks:real:dataroot_lq=~", "tasks:real: .* needs the key 'dataroot_lq'"),
        ("tasks:real:dataroot_lq=[]", "tasks:real:dataroot_lq: .*length"),
        ("tasks:real:dataroot_gt=[., .]", "tasks:real:dataroot_gt: give as many folders"),
        ("tasks:real:test_lq=.", "tasks:real: give test_lq and test_gt, or neither"),
    ],
)
def test_mistakes_are_named(load, change, message):
    with pytest.raises(OptionError, match=message):
        load(change)


@pytest.mark.parametrize("text", ["name: x\nmodel_type: ISPModel\n", "name: x\ntask: {}\npairs: [8]\n"])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "train.yml").write_text(text)
    with pytest.raises(OptionError, match="no option file of `basicsr benchmark`"):
        load_benchmark_options(tmp_path / "train.yml")


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.name)
def test_every_option_file_is_valid(path, tmp_path, monkeypatch, capsys):
    """Checked against empty folders in the place of the data it names."""
    for of_task in load_yaml(path)[0]["tasks"].values():
        for key in {"photographs", "dataroot_lq", "dataroot_gt", "test_lq", "test_gt"} & of_task.keys():
            for folder in np.atleast_1d(of_task[key]):
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    loaded = load_benchmark_options(path)
    assert loaded.name == path.stem
    said = [text for of_task in loaded.tasks.values() for text in (of_task.title, of_task.description)]
    assert all([loaded.title, loaded.contrasts, *said])
    check_effects(loaded)
    assert not capsys.readouterr().out


def test_settings_without_effect_are_named(load, capsys):
    check_effects(load("systems={supervised: }", "contrasts=[]", "settings={noise: paper, lr: 0.002}"))
    assert capsys.readouterr().out == "Note: settings:noise: nothing that these systems do depends on it.\n"
    check_effects(load("systems:supervised={settings: {lr: 0.002}}"))
    for change in ("systems:supervised={settings: {beta: 0.5}}", "systems:mean:settings={beta: 0.5}"):
        with pytest.raises(ValueError, match=r"systems:(supervised|mean):settings:beta: nothing that this system does"):
            check_effects(load(change))
