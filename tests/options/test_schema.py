"""The JSON schemas for editors, and the tables of the documentation: up to date, and of use."""

import json
import re
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path

import jsonschema
import msgspec
import pytest
from helpers import ROOT, load_script

from semiisp_plugin.options import structures
from semiisp_plugin.options.yaml_text import parse

SCRIPT = load_script("write_option_schema")
FILES = sorted((ROOT / "options").glob("*.yml"))


def schema_of(path: Path) -> str:
    match = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
    assert match, f"{path.name} does not begin with the line for editors"
    return match[1]


@pytest.fixture(scope="module")
def validators():
    found = {}
    for name in ("schema.json", "pseudo_schema.json"):
        schema = json.loads((ROOT / "options" / name).read_text(encoding="utf-8"))
        jsonschema.Draft7Validator.check_schema(schema)
        found[name] = jsonschema.Draft7Validator(schema)
    return found


def load(name: str) -> dict:
    return parse((ROOT / "options" / name).read_text(encoding="utf-8"), name)[0]


def errors(validator, value) -> list[str]:
    return [":".join(map(str, e.absolute_path)) + ": " + e.message for e in validator.iter_errors(value)]


def is_pinned(package: str) -> bool:
    pin = f"{package}=={version(package).partition('+')[0]}"
    return any(line.split(" ")[0] == pin for line in (ROOT / "constraints.txt").read_text().splitlines())


@pytest.mark.skipif(
    not (is_pinned("torch") and is_pinned("msgspec")),
    reason="the committed schema is that of the torch and msgspec of constraints.txt, with the arguments of optimisers",
)
def test_committed_files_are_up_to_date():
    made = SCRIPT.texts()
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python scripts/write_option_schema.py"
    assert {path.name for path in made} == {"schema.json", "pseudo_schema.json", "recipe_schema.json", "options.md"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_committed_option_files_are_valid(validators, path):
    values = load(path.name)
    assert schema_of(path) == ("pseudo_schema.json" if "photographs" in values else "schema.json")
    assert errors(validators[schema_of(path)], values) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda o: o.update(nmae="x"), ": "),
        (lambda o: o["train"].update(ema_decya=0.9), "train: "),
        (lambda o: o["train"].update(precision="fp8"), "train:precision: "),
        (lambda o: o["train"].update(total_iter="many"), "train:total_iter: "),
        (lambda o: o["train"]["noise"].update(shot=1), "train:noise: "),
        (lambda o: o["train"]["scheduler"].update(eta_min_ratio=3), "train:scheduler:eta_min_ratio: "),
        (lambda o: o["train"]["scheduler"].update(eta_mn=3), "train:scheduler: "),
        (lambda o: o["datasets"]["train"].update(use_hflp=True), "datasets:train: "),
        (lambda o: o["datasets"]["train"]["pseudo"].update(dataroot="x"), "datasets:train:pseudo: "),
        (lambda o: o["datasets"]["train"]["io_backend"].update(type="dsk"), "datasets:train:io_backend:type: "),
        (lambda o: o["logger"].update(keep_lst=3), "logger: "),
        (lambda o: o["train"]["filter"].update(reference="btch"), "train:filter:reference: "),
        (lambda o: o["network_g"].update(type=3), "network_g:type: "),
    ],
)
def test_misspelt_keys_and_wrong_values_are_marked(validators, change, where):
    values = load("semiie_lolv1_cpu.yml")
    change(values)
    found = errors(validators["schema.json"], values)
    assert any(error.startswith(where) for error in found), found


@pytest.mark.parametrize(
    "values",
    [
        {"extends": "fisp_lolv1.yml", "train": {"total_iter": 3}},
        {"extends": ["a.yml", "b.yml"], "model_type": "SupervisedModel", "val": None},
        {"model_type": "SupervisedModel", "network_g": {"type": "NetworkOfMine", "anything": 3}},
        {"model_type": "ModelOfMine", "something": 3, "train": {"own_key": 1}},
        {"model_type": "SupervisedModel", "datasets": {"train": {"type": "DataSetOfMine", "own": 1}, "val": None}},
        {
            "model_type": "SemiSupervisedModel",
            "train": {"filter": {"beta": "table6", "type": "filter_of_mine", "own": 1}},
        },
        {"model_type": "SRModel", "network_g": {"type": "MSRResNet", "num_feat": 64}},
    ],
)
def test_what_is_not_listed_is_accepted(validators, values):
    assert errors(validators["schema.json"], values) == []


def test_pseudo_files(validators):
    values = load("pseudo_lolv1.yml")
    for change in ({"shorts_side": 3}, {"png_compression": 12}, {"sets": "globl"}):
        assert errors(validators["pseudo_schema.json"], {**values, **change})


def test_every_key_is_described():
    for structure in vars(structures).values():
        if not isinstance(structure, type) or not issubclass(structure, msgspec.Struct):
            continue
        for row in SCRIPT.key_table(structure).splitlines()[2:]:
            assert row.split("|")[-2].strip(), row

    def described(schema, where):
        for key, value in schema.get("properties", {}).items():
            assert value.get("description") or value == {"enum": [where]}, f"{where}: {key}"

    made = SCRIPT.option_schema()
    for name in ("Options", "Dataset", "OnlineDataset", "Train", "Val", "Logger", "Paths", "Filter", "CosineAnnealing"):
        described(made["definitions"][name], name)
    described(SCRIPT.pseudo_schema(), "pseudo")


def test_types_are_suggested():
    made = SCRIPT.option_schema()["definitions"]

    def suggested(schema):
        return set(schema["properties"]["type"]["anyOf"][0]["enum"])

    assert {"SepLUT", "NAFNet", "RRDBNet", "SwinIR"} <= suggested(made["Network"])
    assert {"MSELoss", "SSIMLoss", "GANLoss"} <= suggested(made["Loss"])
    assert {"threshold", "soft"} <= suggested(made["Filter"])
    assert {"PairedImageDataset", "SemiSupervisedDataset"} <= suggested(made["DataSet"])
    assert {"CosineAnnealing", "MultiStepLR"} <= suggested(made["Train"]["properties"]["scheduler"])
    assert "SRModel" in made["Options"]["properties"]["model_type"]["anyOf"][0]["enum"]


def test_tables():
    page = "a\n<!-- keys: Noise -->\nstale text\n<!-- end -->\nb\n<!-- keys: Filter --><!-- end -->\n"
    made = SCRIPT.with_tables(page)
    assert "| `shot_variance` | number ≥ 0 | `0.01` | Of the shot noise. |" in made
    assert "#### `held_out`" in made
    assert "stale text" not in made
    assert SCRIPT.with_tables(made) == made
    with pytest.raises(AttributeError, match="nonsense"):
        SCRIPT.with_tables("<!-- keys: nonsense --><!-- end -->")
    rows = SCRIPT.key_table(structures.Dataset)
    assert "| `gt_size` | whole number from 1 to 65,536, list of two whole numbers from 1 to 65,536 | `~` |" in rows
    assert "| `name` | text |  |" in rows
    assert "| `real_per_batch` | whole number from 1 to 65,536, `table6` | `~` |" in rows


def test_schemas_do_not_depend_on_what_a_user_registers():
    from semiisp_plugin.toolbox import ARCH_REGISTRY

    class MadeHere:
        def __init__(self, width: int = 3) -> None:
            self.width = width

    before = deepcopy(SCRIPT.option_schema())
    ARCH_REGISTRY._obj_map["MadeHere"] = MadeHere
    try:
        assert SCRIPT.as_text(SCRIPT.option_schema()) == SCRIPT.as_text(before)
    finally:
        del ARCH_REGISTRY._obj_map["MadeHere"]
