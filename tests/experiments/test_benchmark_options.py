"""Option files of ``basicsr benchmark``: presets, changes, and what is refused."""

import math
from pathlib import Path

import pytest
import yaml

from semiisp_plugin.experiments.benchmark import candidates, check_effects
from semiisp_plugin.experiments.benchmark_options import PRESETS, System, load_benchmark_options
from semiisp_plugin.options import OptionError

OPTIONS = sorted((Path(__file__).resolve().parents[2] / "options" / "benchmarks").glob("*.yml"))


def options(**changes) -> dict:
    return {
        "name": "b",
        "task": {"type": "simulation"},
        "pairs": [8],
        "systems": {"supervised": None, "paper": None},
        **changes,
    }


@pytest.fixture
def load(tmp_path):
    def load(**changes):
        path = tmp_path / "b.yml"
        path.write_text(yaml.safe_dump(options(**changes), sort_keys=False))
        return load_benchmark_options(path)

    return load


def test_presets_and_changes(load):
    loaded = load(
        systems={
            "supervised": {"search": {"lr": [1e-3]}},
            "no_opf": {"settings": {"draws": 2}},
            "own": {"kind": "semi", "settings": {"beta": 3.0}},
        }
    )
    assert loaded.systems["supervised"].search == {"lr": [1e-3]}  # a search given takes the preset's place
    assert loaded.systems["no_opf"].settings == {"beta": math.inf, "draws": 2}  # settings are put together
    assert loaded.systems["own"].label == "own"
    assert PRESETS["no_opf"].settings == {"beta": math.inf}  # and the preset is left alone


def test_the_papers_setting_is_the_papers():
    """Beta 1 (Table 6), whole sets, USQ, no noise, one draw, filter by the batch's own mean: nothing of ours."""
    assert PRESETS["paper"].settings == {}
    assert not PRESETS["paper"].ours


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"superviced": None}}, r"no system of that name; did you mean 'supervised'\?"),
        ({"systems": {"paper": None}}, "without a supervised system"),
        ({"systems": {"supervised": {"settings": {"bta": 1}}}}, r"systems:supervised:settings:bta: unknown key"),
        ({"systems": {"supervised": {"search": {"lr": ["high"]}}}}, r"systems:supervised:search:lr"),
        ({"systems": {"supervised": {"kind": "superb"}}}, r"systems:supervised:kind"),
        ({"systems": {"supervised": 3}}, "give a section, or nothing"),
        ({"settings": {"network": {"type": "SepLUTT"}}}, r"settings:network:type: no network 'SepLUTT'"),
        ({"settings": {"network": {"type": "SepLUT", "rank": 3}}}, r"settings:network:rank: SepLUT has no such option"),
        ({"task": {"type": "simulation", "look": "defalt"}}, r"no look 'defalt'; did you mean 'default'\?"),
        ({"task": {"type": "pairs"}}, "needs the key 'dataroot_lq'"),
        ({"task": {"type": "simulation", "photographs": "nowhere"}}, "there is no folder nowhere"),
        ({"pairs": [0]}, "pairs"),
        ({"seed": [1]}, "unknown key; did you mean 'seeds'"),
        ({"seeds": []}, "seeds: .*length"),
        ({"pairs": []}, "pairs: .*length"),
        ({"pairs": ["all"]}, "'all' is for tasks of the type 'pairs'"),
        ({"paper_setting": "papper"}, "'papper' is none of the systems; did you mean 'paper'"),
        ({"systems": {"supervised": {"search": {"lr": []}}}}, "systems:supervised:search.*length"),
        ({"systems": {"supervised": None, "again": {"kind": "semi", "label": "supervised"}}}, "has the label"),
        ({"task": {"type": "simulation", "folds": 3}}, "task:folds: .* makes its own pairs"),
        ({"task": {"type": "pairs", "noise": True}}, "task:noise: .*simulates nothing"),
    ],
)
def test_mistakes_are_named(load, changes, message):
    with pytest.raises(OptionError, match=message):
        load(**changes)


def test_pairs_need_a_test(load, tiny_data):
    pairs, photos = tiny_data / "pairs", str(tiny_data / "photos")
    task = {"type": "pairs", "dataroot_lq": str(pairs / "input"), "dataroot_gt": str(pairs / "target")}
    for wrong in ({}, {"folds": 3, "test_lq": str(pairs / "input"), "test_gt": str(pairs / "target")}):
        with pytest.raises(OptionError, match="or folds for cross-validation"):
            load(task={**task, "photographs": photos, **wrong})
    assert load(task={**task, "photographs": photos, "folds": 3}).task.folds == 3


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "train.yml"
    path.write_text("name: x\nmodel_type: ISPModel\n")
    with pytest.raises(OptionError, match="no option file of `basicsr benchmark`"):
        load_benchmark_options(path)


def test_candidates_are_all_combinations():
    system = System(kind="supervised", search={"lr": [1, 2], "augment": [0.1, 0.3]})
    assert len(candidates(system)) == 4
    assert {"lr": 2, "augment": 0.1} in candidates(system)
    assert candidates(System(kind="f_isp")) == [{}]


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.name)
def test_every_option_file_is_valid(path, tmp_path, monkeypatch, capsys):
    """Checked against empty folders in the place of the data it names."""
    values = yaml.safe_load(path.read_text())
    for key in ("photographs", "dataroot_lq", "dataroot_gt", "test_lq", "test_gt"):
        if values["task"].get(key):
            (tmp_path / values["task"][key]).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path)
    loaded = load_benchmark_options(path)
    assert loaded.name == path.stem
    assert loaded.paper_setting in loaded.systems  # the paper's own setting is always a row
    assert loaded.title
    assert loaded.task.description
    check_effects(loaded, 16)
    assert not capsys.readouterr().out


def test_common_settings_without_effect_are_named(load, capsys):
    check_effects(load(systems={"supervised": None}, settings={"noise": "paper", "lr": 2e-3}), 16)
    assert capsys.readouterr().out == "Note: settings:noise: nothing that these systems do depends on it.\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": {"supervised": {"settings": {"beta": 2.0}}}}, "systems:supervised:settings:beta: nothing that"),
        ({"systems": {"supervised": {"settings": {"lr": 2e-3}}}}, None),
    ],
)
def test_settings_without_effect_are_named(load, changes, message):
    loaded = load(**{"systems": {"supervised": None}, **changes})
    if message is None:
        check_effects(loaded, 16)
        return
    with pytest.raises(ValueError, match=message):
        check_effects(loaded, 16)
