"""Option files with one thing wrong, by the hundred: each is refused, by key and line, and none runs anything.

The files are those of two of the plugin's models. Where a key stands is found here by indentation, not by the reader
that is tested.
"""

from __future__ import annotations

import json
import random
import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from semiisp_plugin.options import OptionError, check_options, read_options

PAIRS = {"dataroot_gt": "gt", "dataroot_lq": "lq", "io_backend": {"type": "disk"}}
METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 4, "test_y_channel": False, "better": "higher"},
    "niqe": {"type": "calculate_niqe", "crop_border": 4, "better": "lower"},
}
LOGGER = {"print_freq": 100, "save_checkpoint_freq": 5000, "use_tb_logger": True}

SEMI = {
    "name": "semi",
    "model_type": "SemiSupervisedModel",
    "scale": 1,
    "num_gpu": 0,
    "manual_seed": 0,
    "datasets": {
        "train": {
            "name": "pairs",
            "type": "SemiSupervisedDataset",
            **deepcopy(PAIRS),
            "pseudo": {
                "dataroot_gt": "gt.lmdb",
                "dataroot_lq": "lq.lmdb",
                "io_backend": {"type": "lmdb"},
                "cache_images": False,
            },
            "real_per_batch": 2,
            "pseudo_per_batch": 8,
            "gt_size": 96,
            "cache_images": True,
            "use_hflip": True,
            "num_worker_per_gpu": 0,
            "prefetch_factor": 2,
        },
        "val": {"name": "val", "type": "PairedRestorationDataset", **deepcopy(PAIRS), "batch_size_per_gpu": 2},
    },
    "network_g": {"type": "SepLUT", "n_vertices_3d": 9, "n_vertices_1d": 9, "thumbnail": 128, "identity_start": True},
    "path": {"pretrain_network_g": None, "strict_load_g": True},
    "train": {
        "total_iter": 800,
        "ema_decay": 0.99,
        "grad_clip": 1.0,
        "precision": "bf16",
        "accumulate": 2,
        "filter": {"type": "soft", "beta": 1.2, "temperature": 0.5, "reference": "running", "momentum": 0.9},
        "noise": {"shot_variance": 0.01, "read_variance": 0.0002},
        "optim_g": {"type": "AdamW", "lr": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.99]},
        "scheduler": {"type": "CosineAnnealing", "eta_min_ratio": 0.001},
        "pixel_opt": {"type": "MSELoss", "loss_weight": 1.0},
        "ssim_opt": {"type": "SSIMLoss", "window_size": 11},
    },
    "val": {"val_freq": 400, "save_img": False, "metrics": deepcopy(METRICS)},
    "logger": {**deepcopy(LOGGER), "keep_last": 3, "keep_best": "psnr"},
}
ISP = {
    "name": "isp",
    "model_type": "ISPModel",
    "num_gpu": 0,
    "manual_seed": 0,
    "datasets": {
        "train": {
            "name": "pairs",
            "type": "PairedRestorationDataset",
            **deepcopy(PAIRS),
            "filename_tmpl": "{}",
            "gt_size": [64, 96],
            "use_hflip": True,
            "use_rot": True,
            "num_worker_per_gpu": 6,
            "batch_size_per_gpu": 16,
            "timeout": 60,
        },
        "val": {"name": "val", "type": "PairedRestorationDataset", **deepcopy(PAIRS)},
    },
    "network_g": {"type": "PQDynamicISP", "inverse_tone_mapping": True, "grid": [8, 8]},
    "network_global": {"type": "PQDynamicISP", "inverse_tone_mapping": True, "grid": [1, 1]},
    "path": {"pretrain_network_g": "x.pth", "strict_load_g": True, "resume_state": None},
    "train": {
        "bank_size": 100,
        "nonfinite_limit": 3,
        "photometric_jitter": 0.1,
        "optim_g": {"type": "Adam", "lr": 0.0001, "weight_decay": 0, "betas": [0.9, 0.99]},
        "scheduler": {"type": "MultiStepLR", "milestones": [50000, 100000], "gamma": 0.5},
        "total_iter": 400000,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 0.01, "reduction": "mean"},
        "activity_penalty": {"module": "body", "weight": 0.0001},
        "table_penalty": {"smoothness": 0.0001, "monotonicity": 10.0, "axes": "own"},
    },
    "val": {"val_freq": 5000, "save_img": True, "metrics": deepcopy(METRICS)},
    "logger": deepcopy(LOGGER),
    "dist_params": {"backend": "nccl", "port": 29500},
}
FILES = {"semi": SEMI, "isp": ISP}

# Names that the user chooses, and sections whose keys nobody knows.
FREE = re.compile(r"datasets:\w+|val:metrics:\w+|dist_params:\w+")
UNTYPED = re.compile(r"dist_params:.*")
REQUIRED = {
    "semi": [
        *("name", "model_type", "datasets", "network_g", "train", "datasets:train", "datasets:train:type"),
        *("datasets:train:dataroot_lq", "datasets:train:io_backend", "datasets:train:io_backend:type"),
        *("datasets:train:gt_size", "datasets:train:pseudo", "datasets:train:pseudo:dataroot_gt"),
        *("datasets:train:real_per_batch", "datasets:train:pseudo_per_batch", "datasets:val:dataroot_gt"),
        *("network_g:type", "train:total_iter", "train:optim_g", "train:optim_g:type", "train:filter"),
        *("train:filter:beta", "train:filter:temperature", "train:scheduler:type", "train:pixel_opt:type"),
        *("val:val_freq", "val:metrics:psnr:type", "val:metrics:psnr:crop_border"),
    ],
    "isp": [
        *("name", "model_type", "datasets", "network_g", "train", "datasets:train", "network_global:type"),
        *("datasets:train:type", "datasets:train:dataroot_gt", "datasets:train:io_backend"),
        *("datasets:train:batch_size_per_gpu", "train:total_iter", "train:optim_g", "train:optim_g:type"),
        *("train:scheduler:milestones", "train:activity_penalty:module", "val:val_freq"),
        *("val:metrics:niqe:crop_border", "datasets:val:dataroot_lq"),
    ],
}
CANARY = "canary_was_here"
HOSTILE = (
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"!!python/object/new:os.system ['touch {CANARY}']",
    f"!!python/object/apply:subprocess.check_output [[touch, {CANARY}]]",
    f"!!python/object/apply:builtins.eval [\"open('{CANARY}', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:os.system {}",
    "!system 'ls'",
)
CODE = (
    f"__import__('os').system('touch {CANARY}')",
    f'__import__("pathlib").Path("{CANARY}").touch()',
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    f"$(touch {CANARY})",
)


def get(options: dict, path: str):
    for key in path.split(":"):
        options = options[key]
    return options


def put(options: dict, path: str, value) -> None:
    *parents, last = path.split(":")
    (get(options, ":".join(parents)) if parents else options)[last] = value


def rename(options: dict, path: str, name: str) -> None:
    """Rename a key where it stands."""
    *parents, last = path.split(":")
    section = get(options, ":".join(parents)) if parents else options
    items = [(name if key == last else key, value) for key, value in section.items()]
    section.clear()
    section.update(items)


def drop(options: dict, path: str) -> None:
    *parents, last = path.split(":")
    del (get(options, ":".join(parents)) if parents else options)[last]


def paths(options: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in options.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += paths(value, f"{prefix}{key}:")
    return found


def as_text(options: dict) -> str:
    return yaml.safe_dump(options, sort_keys=False)


def line_of(text: str, path: str) -> int:
    """The line of a key, by indentation: two columns a section."""
    wanted, depth = path.split(":"), 0
    for number, line in enumerate(text.splitlines(), 1):
        indent = len(line) - len(line.lstrip())
        if indent < 2 * depth:
            break
        if indent == 2 * depth and line.strip().split(":")[0] == wanted[depth]:
            depth += 1
            if depth == len(wanted):
                return number
    raise AssertionError(f"{path} is not in\n{text}")


def misspelt(rng: random.Random, key: str) -> str:
    at = rng.randrange(1, max(2, len(key) - 1))
    ways = [key[:at] + key[at + 1 :], key[:at] + key[at - 1] + key[at:], key[:at] + "q" + key[at:]]
    return rng.choice([w for w in ways if w != key and w])


def mutations() -> list:
    """``(id, text, line or None, what the message must name, overrides)``."""
    rng = random.Random(6)
    cases = []

    def add(kind: str, base: str, path: str, text: str, at: str | None, names: str, overrides=()) -> None:
        line = line_of(text, at) if at else None
        cases.append(pytest.param(text, line, names, list(overrides), id=f"{kind}-{base}-{path}"))

    for base, original in FILES.items():
        every = [p for p in paths(original) if not FREE.fullmatch(p)]
        for path in rng.sample(every, 28):
            changed, name = deepcopy(original), misspelt(rng, path.split(":")[-1])
            rename(changed, path, name)
            *parents, _ = path.split(":")
            add("misspelt", base, path, as_text(changed), ":".join([*parents, name]), name)
        typed = [p for p in paths(original) if not UNTYPED.fullmatch(p) and get(original, p) is not None]
        leaves = [p for p in typed if isinstance(get(original, p), (int, float, list)) and not FREE.fullmatch(p)]
        for path in rng.sample(leaves, 18):
            changed = deepcopy(original)
            wrong = rng.choice(["many", "yes please", {"a": 1}] if not isinstance(get(original, path), list) else ["a"])
            put(changed, path, wrong)
            add("type", base, path, as_text(changed), path, path)
        sections = [p for p in typed if isinstance(get(original, p), dict)]
        for path in rng.sample(sections, 12):
            changed = deepcopy(original)
            put(changed, path, rng.choice([[1, 2], "some text", 3, True]))
            add("kind", base, path, as_text(changed), path, path.split(":")[-1])
        for path in REQUIRED[base]:
            changed = deepcopy(original)
            drop(changed, path)
            *parents, key = path.split(":")
            add("missing", base, path, as_text(changed), ":".join(parents) or None, f"'{key}'")
        for path in [p for p in paths(original) if p.endswith(":type") or p == "model_type"]:
            changed = deepcopy(original)
            name = misspelt(rng, get(original, path))
            put(changed, path, name)
            add("name", base, path, as_text(changed), path, name)
        scalars = [p for p in paths(original) if not isinstance(get(original, p), (dict, list))]
        for number, path in enumerate(rng.sample(scalars, 8)):
            changed = deepcopy(original)
            put(changed, path, "REPLACED")
            text = as_text(changed).replace("REPLACED", HOSTILE[number])
            add("hostile", base, path, text, path, path)
        for path in rng.sample(scalars, 6):
            text = as_text(original)
            line = line_of(text, path)
            lines = text.splitlines()
            lines.insert(line, lines[line - 1])
            cases.append(
                pytest.param("\n".join(lines), line + 1, f"{path} is given twice", [], id=f"twice-{base}-{path}")
            )
        numbers = [p for p in leaves if not isinstance(get(original, p), list)]
        for number, path in enumerate(rng.sample(numbers, 8)):
            name = f"--force_yml {path}"
            cases.append(
                pytest.param(
                    as_text(original), None, name, [f"{path}={CODE[number % len(CODE)]}"], id=f"code-{base}-{path}"
                )
            )
        for path in rng.sample([p for p in every if ":" in p], 5):
            name = f"{':'.join(path.split(':')[:-1])}:{misspelt(rng, path.split(':')[-1])}"
            cases.append(pytest.param(as_text(original), None, name, [f"{name}=3"], id=f"override-{base}-{path}"))
    return cases


MUTATIONS = mutations()


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(text: str, overrides=()) -> dict:
        Path("o.yml").write_text(text, encoding="utf-8")
        options, source = read_options("o.yml", overrides)
        check_options(options, source, is_train=True)
        return options

    return check


@pytest.mark.parametrize("base", FILES)
def test_the_files_themselves_are_right(check, base):
    assert check(as_text(FILES[base]))["model_type"] == FILES[base]["model_type"]


def test_there_are_enough_and_always_the_same():
    assert len(MUTATIONS) >= 200
    assert [m.values for m in mutations()] == [m.values for m in MUTATIONS]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "line", "names", "overrides"), MUTATIONS)
def test_one_thing_wrong(check, text, line, names, overrides):
    with pytest.raises(OptionError) as caught:
        check(text, overrides)
    message = str(caught.value)
    assert names in message
    if overrides:
        assert message.startswith("--force_yml ")
    elif line is None:
        assert message.startswith("o.yml: ")
    else:
        assert message.startswith(f"o.yml:{line}: ")
    assert [p.name for p in Path.cwd().iterdir()] == ["o.yml"], "nothing of the file was executed"


@pytest.mark.parametrize("tag", HOSTILE)
def test_hostile_keys(check, tag):
    for text in (f"? {tag}\n: 3\n", f"train:\n  ? {tag}\n  : 3\n", f"train: [1, {tag}]\n"):
        with pytest.raises(OptionError, match=r"^o\.yml:\d: "):
            check(text)
    assert [p.name for p in Path.cwd().iterdir()] == ["o.yml"]


# --- what is right must not be refused -------------------------------------------------------------------------------


def reordered(rng: random.Random, value):
    if not isinstance(value, dict):
        return value
    items = [(key, reordered(rng, item)) for key, item in value.items()]
    return dict(rng.sample(items, len(items)))


def right_files() -> list:
    rng = random.Random(7)
    cases = []
    for base, original in FILES.items():
        text = as_text(original)
        for kind, changed in {
            "order": as_text(reordered(rng, original)),
            "order_again": as_text(reordered(rng, original)),
            "flow": yaml.safe_dump(original, default_flow_style=True),
            "quoted_keys": re.sub(r"^( *)(\w+):", r'\1"\2":', text, flags=re.MULTILINE),
            "comments": "# first\n" + re.sub(r"$", "  # why", text, flags=re.MULTILINE),
            "windows": text.replace("\n", "\r\n"),
            "document_marks": f"---\n{text}...\n",
            "tagged_sections": text.replace("train:\n", "train: !!map\n"),
            "json": json.dumps(original),
        }.items():
            cases.append(pytest.param(changed, [], None, id=f"{kind}-{base}"))
        for written, value in (
            ("1e-4", 1e-4),
            ("!!float 1e-4", 1e-4),
            ("!!float 1", 1.0),
            ("1.0e-4", 1e-4),
            (".1e-3", 1e-4),
            ("1E-4", 1e-4),
            ("0.000_1", 1e-4),
        ):
            path = "train:optim_g:lr"
            cases.append(pytest.param(text, [f"{path}={written}"], (path, value), id=f"lr-{base}-{written}"))
            at = line_of(text, path) - 1
            lines = text.splitlines()
            lines[at] = f"    lr: {written}"
            cases.append(pytest.param("\n".join(lines), [], (path, value), id=f"lr_in_file-{base}-{written}"))
        for written in ("1e5", "!!float 1e5", "100000", "100_000", "1.0e+5"):
            for path in ("train:total_iter", "val:val_freq", "logger:save_checkpoint_freq", "train:warmup_iter"):
                entry = [f"{path}={written}"]
                cases.append(pytest.param(text, entry, (path, 100000), id=f"whole-{base}-{path}-{written}"))
        for path in ("path", "logger", "val"):
            cases.append(pytest.param(text, [f"{path}=~", "logger={}"], None, id=f"nothing-{base}-{path}"))
    return cases


@pytest.mark.parametrize(("text", "overrides", "expected"), right_files())
def test_nothing_wrong(check, text, overrides, expected):
    options = check(text, overrides)
    if expected is not None:
        path, value = expected
        assert get(options, path) == value
        assert type(get(options, path)) is type(value)
