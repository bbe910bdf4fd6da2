"""Option files of ``basicsr benchmark``: presets, changes, and what is refused."""

import math

import pytest
import yaml
from helpers import ROOT

from semiisp_plugin.experiments.benchmark import check_effects
from semiisp_plugin.experiments.benchmark_options import PRESETS, learns_from_photographs, load_benchmark_options
from semiisp_plugin.options import OptionError

OPTIONS = sorted((ROOT / "options" / "benchmarks").glob("*.yml"))
OF_F_ISP = {"network": "f_isp"}


def systems(**more) -> dict:
    return {"systems": {"supervised": None, "paper": None, **more}}


def task(**changes) -> dict:
    return {"tasks": {"t": {"type": "simulation", "pairs": [8], **changes}}}


@pytest.fixture
def load(tmp_path):
    def load(**changes):
        path = tmp_path / "b.yml"
        path.write_text(yaml.safe_dump({"name": "b", **task(), **systems(), **changes}, sort_keys=False))
        return load_benchmark_options(path)

    return load


def test_presets_and_changes(load):
    loaded = load(
        **systems(
            no_opf={"settings": {"draws": 2}},
            own={"kind": "semi", "settings": {"beta": 3.0}},
            best={"kind": "choose", "among": ["supervised", "own"], "group": "chosen"},
            alone={"kind": "average", "among": ["supervised", "f_isp"]},
            f_isp=None,
        )
    )
    assert loaded.systems["no_opf"].settings == {"beta": math.inf, "draws": 2}  # settings are put together
    assert loaded.systems["own"].label == "own"
    assert PRESETS["no_opf"].settings == {"beta": math.inf}  # and the preset is left alone
    assert [learns_from_photographs(name, loaded.systems) for name in ("best", "alone", "own")] == [True, False, True]


def test_the_papers_setting_is_the_papers():
    """Beta 1 (Table 6), whole sets, USQ, no noise, one draw, filter by the batch's own mean: nothing of ours."""
    assert PRESETS["paper"].settings == {}
    assert not PRESETS["paper"].ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"superviced": None}}, r"no system of that name; did you mean 'supervised'\?"),
        ({"systems": {"paper": None}}, "without a supervised system"),
        (systems(supervised={"settings": {"bta": 1}}), r"systems:supervised:settings:bta: unknown key"),
        (systems(supervised={"search": {"lr": [1e-3]}}), r"systems:supervised:search: unknown key"),
        (systems(supervised={"kind": "superb"}), r"systems:supervised:kind"),
        (systems(supervised=3), "give a section, or nothing"),
        (systems(again={"kind": "semi", "label": PRESETS["paper"].label}), "another system has the label"),
        (systems(best={"kind": "choose"}), "systems:best:among: .* name two or more systems"),
        (systems(mean={"kind": "average", "among": ["paper"]}), "systems:mean:among: .* name two or more systems"),
        (systems(own={"kind": "semi", "among": ["paper", "supervised"]}), "systems:own:among: .* leave it out"),
        (
            systems(best={"kind": "choose", "among": ["paper", "supervise"]}),
            r"'supervise' is none of the systems; did you mean 'supervised'\?",
        ),
        (systems(best={"kind": "choose", "among": ["best", "paper"]}), "'best' is itself of the kind 'choose'"),
        (systems(best={"kind": "choose", "among": ["paper", "supervised"], "folds": 9}), "folds: 9 folds of 8 pairs"),
        (systems(own={"kind": "semi", "settings": {"warm_start": True}}), "systems:own: warm_start .*network: f_isp"),
        (systems(own={"kind": "semi", "settings": {"rounds": 2}}), "systems:own: rounds .*network: f_isp"),
        (
            systems(own={"kind": "semi", "settings": {**OF_F_ISP, "guided": True, "warm_start": True}}),
            "leave out warm_start and rounds",
        ),
        (
            systems(own={"kind": "semi", "settings": {**OF_F_ISP, "guided": True, "rounds": 2}}),
            "leave out warm_start and rounds",
        ),
        ({"settings": {"network": {"type": "SepLUTT"}}}, r"settings:network:type: no network 'SepLUTT'"),
        ({"settings": {"network": {"type": "SepLUT", "rank": 3}}}, r"settings:network:rank: SepLUT has no such option"),
        ({"seed": [1]}, "unknown key; did you mean 'seeds'"),
        ({"seeds": []}, "seeds: .*length"),
        ({"seeds": [1, 1]}, "seeds: a number stands there twice"),
        ({"contrasts": [{"title": "x", "of": "papper", "over": ["supervised"]}]}, "'papper' .* did you mean 'paper'"),
        ({"tasks": {}}, "tasks: .*length"),
        (task(pairs=[0]), "tasks:t:pairs"),
        (task(pairs=[]), "tasks:t:pairs: .*length"),
        (task(pairs=[8, 8]), "tasks:t:pairs: a number stands there twice"),
        (task(look="defalt"), r"tasks:t:look: no look 'defalt'; did you mean 'default'\?"),
        (task(photographs="nowhere"), "tasks:t:photographs: there is no folder nowhere"),
        (task(narrow=True), "tasks:t:narrow: .* makes its own pairs"),
        (task(type="pairs", noise=True), "tasks:t:noise: .*simulates nothing"),
        (task(type="pairs"), "tasks:t: .* needs the key 'dataroot_lq'"),
        (task(type="pairs", dataroot_lq=["."], dataroot_gt=[".", "."], photographs="."), "give as many folders"),
        (task(type="pairs", dataroot_lq=".", dataroot_gt=".", photographs=".", test_lq="."), "test_gt, or neither"),
    ],
)
def test_mistakes_are_named(load, changes, message):
    with pytest.raises(OptionError, match=message):
        load(**changes)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "train.yml"
    for text in ("name: x\nmodel_type: ISPModel\n", "name: x\ntask: {type: simulation}\npairs: [8]\n"):
        path.write_text(text)
        with pytest.raises(OptionError, match="no option file of `basicsr benchmark`"):
            load_benchmark_options(path)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.name)
def test_every_option_file_is_valid(path, tmp_path, monkeypatch, capsys):
    """Checked against empty folders in the place of the data it names."""
    for of_task in yaml.safe_load(path.read_text())["tasks"].values():
        for key in ("photographs", "dataroot_lq", "dataroot_gt", "test_lq", "test_gt"):
            folders = of_task.get(key) or []
            for folder in [folders] if isinstance(folders, str) else folders:
                (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    loaded = load_benchmark_options(path)
    assert loaded.name == path.stem
    assert loaded.title
    assert loaded.contrasts  # fixed before the run
    assert all(of_task.title and of_task.description for of_task in loaded.tasks.values())
    check_effects(loaded)
    assert not capsys.readouterr().out


def test_common_settings_without_effect_are_named(load, capsys):
    check_effects(load(systems={"supervised": None}, settings={"noise": "paper", "lr": 2e-3}))
    assert capsys.readouterr().out == "Note: settings:noise: nothing that these systems do depends on it.\n"


def test_settings_without_effect_are_named(load):
    check_effects(load(systems={"supervised": {"settings": {"lr": 2e-3}}}))
    for name, given in (
        ("supervised", {"settings": {"beta": 2.0}}),
        ("mean", {"kind": "average", "among": ["supervised", "f_isp"], "settings": {"lr": 2e-3}}),
    ):
        loaded = load(systems={"supervised": None, "f_isp": None, name: given})
        with pytest.raises(ValueError, match=f"systems:{name}:settings:(beta|lr): nothing that"):
            check_effects(loaded)
