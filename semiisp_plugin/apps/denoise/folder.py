"""All images of a folder or LMDB, denoised into another.

What is written is whole, image by image: a run that was stopped goes on when it is asked for again. ``denoised.json``
in the output says what made it; an output made with other settings is refused. An image that cannot be read or denoised
is set aside with its reason and tried again by the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
import torch
from tqdm import tqdm

from semiisp_plugin._version import __version__
from semiisp_plugin.apps.denoise.denoisers import Denoiser, NonLocalMeans, denoise_image, network_denoiser
from semiisp_plugin.apps.denoise.options import DenoiseOptions, is_lmdb
from semiisp_plugin.io.checkpoint import CheckpointError
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import (
    decode_image,
    encode_png,
    printable_path,
    read_image,
    scan_images,
    strip_extension,
    to_float,
    to_uint16,
)
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, read_meta, read_value

RECORD = "denoised.json"
"""Name of the record in the output."""


class DenoiseReport(NamedTuple):
    """What a run did.

    Attributes:
        written: Images that it denoised.
        kept: Images that were there before.
        set_aside: Images that could not be used, with the reason.
        seconds: Time it took.
    """

    written: int
    kept: int
    set_aside: dict[str, str]
    seconds: float


class _Input(NamedTuple):
    name: str
    read: Callable[[], np.ndarray]


def make_denoiser(options: DenoiseOptions) -> Denoiser:
    """The denoiser that the options describe.

    Raises:
        CheckpointError: Its weights are missing, unreadable, or another network's.
    """
    if options.uses_network:
        if options.network is None or options.weights is None:
            raise ValueError("method: network needs a network and its weights; give both, or choose method: opencv.")
        return network_denoiser(
            options.network,
            options.weights,
            options.param_key,
            strict=options.strict_load,
            tile=options.tile,
            overlap=options.tile_overlap,
            precision=options.precision,
            device="cuda" if options.num_gpu else "cpu",
        )
    means = options.non_local_means
    return NonLocalMeans(
        None if means.strength == "auto" else means.strength,
        None if means.colour_strength == "auto" else means.colour_strength,
        means.patch,
        means.search,
    )


def denoise_folder(options: DenoiseOptions, *, progress: bool = True) -> DenoiseReport:
    """Denoise all images of ``options.input`` into ``options.out``, or go on with it.

    Args:
        options: From `semiisp_plugin.apps.denoise.load_denoise_options`.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: The output was made with other settings, or is being written just now; no image could be used.
        FileExistsError: The output holds files that are not of this command.
        FileNotFoundError: There is no such input.
        CheckpointError: See `make_denoiser`.
        OSError: The disk is full, and the like; what is written stays.
    """
    began = time.monotonic()
    inputs = _inputs(options.input)
    with _locked(Path(options.out)):
        held = _read_record(options)
        settings = _settings(options)
        _check_settings(options.out, held, settings)
        denoiser = make_denoiser(options)
        set_aside: dict[str, str] = {}
        written = 0
        with ExitStack() as stack:
            output = _LmdbOutput(options, stack) if is_lmdb(options.out) else _FolderOutput(options)
            record = {"settings": settings, "versions": _versions(), "device": _device(options)}
            _write_record(options.out, {**record, "complete": False})
            todo = [item for item in inputs if item.name not in output]
            bar = tqdm(
                todo,
                desc=options.name,
                unit="image",
                total=len(inputs),
                initial=len(inputs) - len(todo),
                disable=not (progress and sys.stderr.isatty()),
            )
            for item in bar:
                try:
                    image = to_float(item.read())
                    clean = denoise_image(image, denoiser, normalise=options.normalise, gamma=options.gamma)
                except (ValueError, KeyError, OSError, RuntimeError, MemoryError, cv2.error) as error:
                    # A KeyError's text is its message in quotes.
                    reason = error.args[0] if isinstance(error, KeyError) else error
                    set_aside[printable_path(item.name)] = " ".join(str(reason).split()) or type(error).__name__
                    continue
                output.put(item.name, to_uint16(clean))
                written += 1
        counts = {"images": len(inputs) - len(set_aside), "set_aside": set_aside}
        _write_record(options.out, {**record, "complete": not set_aside, **counts})
    report = DenoiseReport(written, len(inputs) - len(todo), set_aside, time.monotonic() - began)
    if not report.written and not report.kept:
        name, reason = next(iter(set_aside.items()))
        raise ValueError(f"None of the {len(inputs)} images in '{options.input}' could be used; '{name}': {reason}")
    return report


def is_denoised(options: DenoiseOptions) -> bool:
    """Whether the output is there, whole, of all images of the input, and made with these settings.

    Raises:
        ValueError, FileExistsError, FileNotFoundError, CheckpointError: As `denoise_folder`.
    """
    held = _read_record(options)
    if held is None or not held.get("complete"):
        return False
    _check_settings(options.out, held, _settings(options))
    names = {item.name for item in _inputs(options.input)}
    if is_lmdb(options.out):
        return names <= {entry.key for entry in read_meta(options.out)}
    output = _FolderOutput(options)
    return all(name in output for name in names)


# --- input ----------------------------------------------------------------------------------------------------------


def _inputs(root: str) -> list[_Input]:
    """All images of a folder or LMDB; their names are keys, or paths of PNG files."""
    if is_lmdb(root):
        found = [_Input(entry.key, _reader_of_key(root, entry.key)) for entry in read_meta(root)]
    else:
        names: dict[str, str] = {}
        for relative in scan_images(root).images:
            name = f"{strip_extension(relative)[0]}.png"
            if name in names:
                raise ValueError(
                    f"'{names[name]}' and '{relative}' in '{root}' differ in their extension alone, and would both "
                    f"become '{name}'. Remove one."
                )
            names[name] = relative
        found = [_Input(name, _reader_of_file(os.path.join(root, relative))) for name, relative in names.items()]
    if not found:
        raise ValueError(f"input: '{root}' holds no image. Check the path.")
    return found


def _reader_of_key(root: str, key: str) -> Callable[[], np.ndarray]:
    return lambda: decode_image(read_value(root, key), name=f"{root}/{key}")


def _reader_of_file(path: str) -> Callable[[], np.ndarray]:
    return lambda: read_image(path)


# --- output ---------------------------------------------------------------------------------------------------------


class _FolderOutput:
    """PNG files."""

    def __init__(self, options: DenoiseOptions) -> None:
        self.root = Path(options.out)
        self.compression = options.png_compression

    def __contains__(self, name: str) -> bool:
        return (self.root / name).is_file()

    def put(self, name: str, image: np.ndarray) -> None:
        write_atomically(self.root / name, encode_png(image, self.compression))


class _LmdbOutput:
    """PNG values of an LMDB folder."""

    def __init__(self, options: DenoiseOptions, stack: ExitStack) -> None:
        self.compression = options.png_compression
        # One image a commit: denoising one takes longer than writing it, and a kill must not cost what is made.
        writer = LmdbImageWriter(options.out, resume=True, batch=1, compression=options.png_compression)
        self.writer = stack.enter_context(writer)

    def __contains__(self, name: str) -> bool:
        return name in self.writer

    def put(self, name: str, image: np.ndarray) -> None:
        self.writer.put(name, encode_png(image, self.compression), image.shape)


# --- record ---------------------------------------------------------------------------------------------------------


def _settings(options: DenoiseOptions) -> dict[str, Any]:
    """All that the images depend on, as JSON has it.

    Raises:
        CheckpointError: There is no such file of weights.
    """
    # Seen from the output: however the path is spelt, and if both are moved together.
    place = os.path.relpath(os.path.realpath(options.input), os.path.realpath(options.out))
    settings: dict[str, Any] = {"input": place, "normalise": options.normalise, "gamma": options.gamma}
    if options.uses_network:
        settings |= {
            "method": "network",
            "network": options.network,
            "weights": os.path.basename(options.weights or ""),
            "weights_sha256": _sha256(options.weights or ""),
            "param_key": options.param_key,
            "strict_load": options.strict_load,
            "tile": options.tile,
            "tile_overlap": options.tile_overlap,
            "precision": options.precision,
        }
    else:
        settings |= {
            "method": "opencv",
            "label": "non-local means; ours, not the paper's denoiser",
            "non_local_means": msgspec.to_builtins(options.non_local_means),
        }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _sha256(path: str) -> str:
    if not os.path.isfile(path):
        raise CheckpointError(f"weights: there is no file '{path}'. Correct the path, or choose method: opencv.")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _check_settings(out: str, held: dict[str, Any] | None, settings: dict[str, Any]) -> None:
    """Raise if an output was begun with other settings."""
    if held is None:
        return
    before: dict[str, Any] = held["settings"]
    changed = sorted(k for k in {*before, *settings} if before.get(k) != settings.get(k))
    if changed:
        details = "; ".join(
            f"{k}: {before.get(k, 'not given')} then, {settings.get(k, 'not given')} now" for k in changed
        )
        raise ValueError(
            f"'{out}' was made with other settings ({details}), and two kinds of images are not mixed. Delete it, or "
            "choose another folder (out)."
        )


def _read_record(options: DenoiseOptions) -> dict[str, Any] | None:
    """What an earlier run wrote of the output; None: there is nothing yet.

    Raises:
        FileExistsError: It holds what is not of this command.
        ValueError: The record is damaged.
    """
    out = Path(options.out)
    path = out / RECORD
    if path.is_file():
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record["settings"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"'{path}' is damaged, so it is unknown what '{out}' holds. Delete the folder, or choose another (out)."
            ) from None
        return record
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"out: '{out}' is a file; give a folder.")
    if not out.is_dir():
        return None
    if is_lmdb(options.out):
        # A run that was killed while it made the LMDB leaves it empty, without a record.
        strange = {p.name for p in out.iterdir()} - {"data.mdb", "lock.mdb", "meta_info.txt"}
        meta = out / "meta_info.txt"
        empty = not strange and (not meta.exists() or meta.stat().st_size == 0)
    else:
        empty = not any(out.iterdir())
    if not empty:
        raise FileExistsError(
            f"out: '{out}' holds files, but none of `basicsr denoise` ({RECORD}). Delete it, or choose another folder."
        )
    return None


def _write_record(out: str, record: dict[str, Any]) -> None:
    # Names of files need not be text.
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_atomically(Path(out) / RECORD, text.encode("utf-8", "surrogateescape"))


def _versions() -> dict[str, str]:
    return {
        "semiisp_plugin": __version__,
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def _device(options: DenoiseOptions) -> str:
    return torch.cuda.get_device_name() if options.uses_network and options.num_gpu else "CPU"


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second command away from the output; the lock is beside it, for an LMDB must begin empty."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.parent / f".{out.name}.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise ValueError(f"another `basicsr denoise` is writing '{out}' just now. Wait for it to end.") from error
