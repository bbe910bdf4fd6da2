"""Numbers out of their range: refused by key, with what was found and what is allowed."""

import math
import random
import re
from copy import deepcopy
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
from torch import nn

from semiisp_plugin.apps.denoise.options import complete_denoise_options
from semiisp_plugin.experiments.benchmark_options import BenchmarkOptions, Settings, System, Task
from semiisp_plugin.experiments.recipe_options import RecipeOptions
from semiisp_plugin.options import OptionError, Source, check_network, check_options, complete_pseudo_options, load_yaml
from semiisp_plugin.options.ranges import Size, bounds, in_words
from semiisp_plugin.options.structures import Dataset, MetricKeys, OptimiserKeys, Options, PseudoOptions, structures_in
from semiisp_plugin.toolbox import ARCH_REGISTRY

SHIPPED = sorted((Path(__file__).parents[2] / "options").glob("*.yml"))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        (msgspec.Meta(ge=0, le=1), " from 0 to 1"),
        (msgspec.Meta(ge=0, le=10**9), " from 0 to 1,000,000,000"),
        (msgspec.Meta(ge=0), " of 0 or more"),
        (msgspec.Meta(gt=0, lt=1), " above 0 and below 1"),
        (msgspec.Meta(ge=-1, lt=1), " of -1 or more and below 1"),
        (msgspec.Meta(le=3), " up to 3"),
        (msgspec.Meta(min_length=2), ""),
    ],
)
def test_words(meta, words):
    assert in_words(meta) == words
    assert bounds(Annotated[int, meta] | None, int) == bounds(list[Annotated[int, meta]], int) == words


def numbers_without_range(kind, name="") -> list[str]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [
            found
            for field in msgspec.structs.fields(kind)
            for found in (
                [n for part in structures_in(field.type) for n in numbers_without_range(part)]
                or numbers_without_range(field.type, f"{kind.__name__}:{field.name}")
            )
        ]
    words = re.findall(r"\b(int|float)\b", str(kind))
    return [name] if any(not bounds(kind, {"int": int, "float": float}[word]) for word in words) else []


def test_every_number_of_every_structure_has_a_range():
    structures = (Options, Dataset, PseudoOptions, RecipeOptions, BenchmarkOptions, Task, System, Settings)
    found = [name for s in (*structures, OptimiserKeys, MetricKeys) for name in numbers_without_range(s)]
    assert [name for name in found if name != "Dataset:crop_ratio"] == []  # which is checked as a whole


def refused(section: dict) -> str:
    with pytest.raises(OptionError) as caught:
        check_network(section, Source("o.yml"), ("network_g",))
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "NAFNet", "width": 0}, "width: expected a whole number from 1 to 4,096, got 0."),
        ({"type": "NAFNet", "width": 1e30}, "width: expected a whole number from 1 to 4,096, got 10000000000000000198"),
        ({"type": "NAFNet", "middle_blk_num": -1}, "middle_blk_num: expected a whole number from 0 to 1,000, got -1."),
        (
            {"type": "NAFNet", "enc_blk_nums": [1, -1]},
            "enc_blk_nums: expected a whole number from 0 to 1,000, got [1, ",
        ),
        ({"type": "NAFNet", "enc_blk_nums": []}, "enc_blk_nums: expected a list of length >= 1"),
        ({"type": "NAFNet", "tlc_train_size": 2**31}, "tlc_train_size: expected a whole number from 1 to 65,536, got"),
        ({"type": "NAFNet", "enc_blk_nums": [1]}, " NAFNet: enc_blk_nums [1] has 1 numbers, dec_blk_nums"),
        ({"type": "KBNet_s", "width": 6}, " KBNet_s: width is 6; use a multiple of 4"),
        ({"type": "KBNet_s", "ffn_scale": math.nan}, "ffn_scale: expected a finite number from 0.01 to 100, got nan."),
        ({"type": "LLFormer", "heads": [3, 2, 4, 8]}, " LLFormer: 3 heads cannot share 16 channels evenly"),
        ({"type": "Retinexformer", "stage": 0}, "stage: expected a whole number from 1 to 100, got 0."),
        ({"type": "SepLUT", "dropout": 1}, "dropout: expected a number of 0 or more and below 1, got 1."),
        ({"type": "SepLUT", "n_vertices_3d": 2**64}, "n_vertices_3d: expected a whole number from 0 to 256, got 1844"),
        ({"type": "PQDynamicISP", "grid": [0, 1]}, "grid: expected a whole number from 1 to 1,024, got [0, 1]."),
        ({"type": "PQDynamicISP", "it_sign": 0}, "it_sign: '0' is none of the choices"),
        ({"type": "PQDynamicISP", "base_matrix": [[math.inf] * 3] * 3}, "base_matrix: expected a finite number"),
        ({"type": "MSRResNet", "num_feat": -1}, " MSRResNet cannot be built with these options: "),
        ({"type": "MSRResNet", "num_feat": 2**64}, "num_feat: no option has whole numbers of more than 64 bits"),
        ({"type": "NAFNet", "width": 4096, "enc_blk_nums": [1] * 12, "dec_blk_nums": [1] * 12}, " a network of more "),
    ],
)
def test_networks(section, message):
    assert message in refused(section)


def test_a_network_is_built_without_memory():
    network = check_network({"type": "NAFNet", "width": 512, "middle_blk_num": 1}, Source("o.yml"), ())
    assert sum(p.numel() for p in network.parameters()) > 10**8
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_a_network_that_has_values_while_it_is_built():
    options = {"in_channels": 3, "mid_channels": 16, "out_channels": 3, "num_block": 1}
    assert check_network({"type": "RIDNet", **options}, Source("o.yml"), ()) is None


def test_nothing_of_a_section_is_the_default():
    section = {"type": "NAFNet", "width": None}
    check_network(section, Source("o.yml"), ())
    assert section == {"type": "NAFNet"}


def test_a_range_of_ones_own():
    class Mine(nn.Module):
        def __init__(self, width: Size = 3, slope: Annotated[float, msgspec.Meta(gt=0)] = 1.0) -> None:
            super().__init__()

    ARCH_REGISTRY._obj_map["Mine"] = Mine
    try:
        assert "width: expected a whole number from 1 to 65,536, got 0." in refused({"type": "Mine", "width": 0})
        assert "slope: expected a number above 0, got -1" in refused({"type": "Mine", "slope": -1})
        check_network({"type": "Mine", "width": 1e3}, Source("o.yml"), ())
    finally:
        del ARCH_REGISTRY._obj_map["Mine"]


# --- the shipped files, changed at random ----------------------------------------------------------------------------

ABSURD = {
    bool: [0, 1.5, "yes please", [True]],
    int: [-(2**70), -2, 2**64, 10**400, math.nan, math.inf, "many", [3], {}],
    float: [-1e30, -math.inf, math.nan, 1e308, 10**400, "fast", [0.5], {}],
    str: [0, math.nan, [], {}, True],
    list: [-1, "", {"a": 1}, [[]], [None], [math.nan], [2**64] * 3, [-5, 3, 2**70]],
    dict: [-1, math.inf, "\x1b[31m", [{}], True],
}
# What else is right, beside its own kind.
RIGHT = {"num_gpu"}


def positions(value, keys=()):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*keys, key)
        if isinstance(item, (dict, list)):
            yield from positions(item, (*keys, key))


def check(values: dict) -> None:
    if "model_type" in values:
        check_options(values, Source("o.yml"), is_train="train" in values)
    elif "photographs" in values:
        complete_pseudo_options(values, Source("o.yml"))
    else:
        complete_denoise_options(values, Source("o.yml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_absurd_values_in_the_shipped_files(path):
    rng, original = random.Random(path.stem), load_yaml(path)[0]
    check(deepcopy(original))
    places = [keys for keys in positions(original) if keys[-1] not in RIGHT]
    for keys in rng.sample(places, min(25, len(places))):
        changed = deepcopy(original)
        section = changed
        for key in keys[:-1]:
            section = section[key]
        value = rng.choice(ABSURD[type(section[keys[-1]])] if section[keys[-1]] is not None else [{"a": 1}, [[]]])
        section[keys[-1]] = value
        here = ":".join(map(str, keys))
        try:
            check(changed)
        except OptionError as error:
            message = str(error)
        else:
            pytest.fail(f"{here} may be {value!r:.80}")
        assert message.isprintable()
        assert len(message) < 1500
        assert str(keys[0]) in message, f"{here}: {value!r:.80}: {message}"
