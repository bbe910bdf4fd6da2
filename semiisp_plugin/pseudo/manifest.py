"""The folder of a build of pseudo pairs: what it is made with, which photographs belong to which shard, what is done.

::

    manifest.json                   settings, and the number of photographs of each shard
    shards/00000.photographs.jsonl  a line a photograph: its key and its path below the root
    shards/00000.journal.jsonl      while the shard is being built: a line a pair, written before the pair
    shards/00000.done.json          once it is complete: a `ShardRecord`
    shards/00000.lock               held by the process that builds it
    gt.lmdb/00000.lmdb              updated sRGB (pseudo ground truths)
    lq.lmdb/00000.lmdb              pseudo inputs
    f_isp.pth                       copy of the f_ISP, where inputs are drawn in training

Which photographs a shard holds depends on the sorted list of photographs alone, and is written down before any is
read. A shard is written by one process at a time, and never again once its record stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import FolderJob
from semiisp_plugin.io.image_io import ImageReadError, printable_path
from semiisp_plugin.io.lmdb_io import unique_keys
from semiisp_plugin.io.picture import MIN_SIDE, read_photograph
from semiisp_plugin.options.structures import PseudoOptions, marks_of

FORMAT = 2
SETS = {"stored": ("gt", "lq"), "online": ("gt",), "keys": ()}
"""What a build stores, by its mode: pseudo ground truths and inputs, ground truths, or nothing but keys."""

_DECIDES = {field.name: marks_of(field.type).get("decides") for field in msgspec.structs.fields(PseudoOptions)}
DRAWN_WITH = tuple(name for name, what in _DECIDES.items() if what == "draws")
"""Options (`semiisp_plugin.options.PseudoOptions`) that say how pairs are drawn; see `make_generator`."""

MADE_WITH = tuple(name for name, what in _DECIDES.items() if what)
"""Options that decide what a build holds; the others say where, how fast, and how much of it."""

_SHARDS = (64, 4096)
_DRAW = re.compile(r"__draw[0-9]+$")


def photograph_seed(seed: int, key: str) -> int:
    """Seed of one pair's draws: of the run's seed and the pair's key alone, whatever was read before it."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little") % (2**63)


def pair_keys(key: str, draws: int) -> list[str]:
    """Keys of the pairs of one photograph: its own for the first, ``<key>__draw1`` and so on for the others.

    Different photographs never share one: if there are several draws, a photograph whose own key ends in ``__draw``
    and a number gets ``__draw0`` for the first, so that a key's last ``__draw<n>`` is always the build's.
    """
    first = f"{key}__draw0" if draws > 1 and _DRAW.search(key) else key
    return [first, *(f"{key}__draw{i}" for i in range(1, draws))]


class Photograph(NamedTuple):
    """A photograph of a build.

    Attributes:
        key: What its pairs are called.
        path: Relative to the root of the photographs.
    """

    key: str
    path: str


class ShardRecord(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a complete shard holds.

    Attributes:
        photographs: Photographs that were to be used.
        pairs: Pairs made of them.
        bytes: Size of the encoded images, by set (``gt``, ``lq``).
        clipped: Sum over the pairs of the share of input values that were clamped to [0, 1]; 0 where none are stored.
        skipped: Photographs that could not be used, with the reason.
    """

    photographs: int
    pairs: int
    bytes: dict[str, int]
    clipped: float
    skipped: dict[str, str]

    def to_json(self) -> str:
        """As it is written; not by msgspec's encoder, which refuses file names that are no text."""
        return json.dumps(msgspec.to_builtins(self), indent=1) + "\n"


class BuildFolder:
    """A build that was begun.

    Args:
        folder: Its folder.

    Attributes:
        settings: Everything that the entries depend on: the options `MADE_WITH`, the root of the ``photographs``
            (absolute), and what the builder adds.
        shard_size: Photographs of a shard.
        sizes: Number of photographs of each shard.

    Raises:
        FileNotFoundError: There is none.
        ValueError: Its manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            manifest = job_of(folder).read()
        except OSError:
            manifest = None
        if manifest is None:
            raise FileNotFoundError(
                f"'{folder}' holds no manifest.json, so it is no build of pseudo pairs; give the folder (out) of a "
                f"`basicsr pseudo` run."
            )
        sizes = manifest.get("shards")
        whole = isinstance(sizes, list) and all(isinstance(n, int) for n in [*sizes, manifest.get("shard_size")])
        if manifest.get("format") != FORMAT or not whole:
            raise ValueError(
                f"{self.folder / 'manifest.json'} is of format {manifest.get('format')}, this version reads {FORMAT}; "
                f"build the pairs again."
            )
        self.settings: dict[str, Any] = manifest["settings"]
        self.shard_size: int = manifest["shard_size"]
        self.sizes: list[int] = manifest["shards"]

    @property
    def mode(self) -> str:
        """See `SETS`."""
        return str(self.settings["mode"])

    @property
    def n_photographs(self) -> int:
        """Photographs of all shards, skipped ones included; those tried again count twice."""
        return sum(self.sizes)

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.sizes)

    def file(self, shard: int, kind: str) -> Path:
        """A file of a shard: ``photographs.jsonl``, ``journal.jsonl``, ``done.json`` or ``lock``."""
        return self.folder / "shards" / f"{shard:05d}.{kind}"

    def lmdb(self, shard: int, name: str) -> Path:
        """The LMDB of a shard, ``name`` being ``gt`` or ``lq``."""
        return self.folder / f"{name}.lmdb" / f"{shard:05d}.lmdb"

    def photographs(self, shard: int) -> list[Photograph]:
        """The photographs of a shard, in the order in which they are read.

        Raises:
            ValueError: The list is missing or damaged.
        """
        path = self.file(shard, "photographs.jsonl")
        try:
            found = [Photograph(*json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (FileNotFoundError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}); delete the build and make it again.") from None
        if len(found) != self.sizes[shard]:
            raise ValueError(
                f"{path} lists {len(found)} photographs, the manifest {self.sizes[shard]}; delete the build and make "
                f"it again."
            )
        return found

    def record(self, shard: int) -> ShardRecord | None:
        """What a shard holds, or None if it is not complete.

        Raises:
            ValueError: The record is damaged.
        """
        path = self.file(shard, "done.json")
        try:
            return msgspec.convert(json.loads(path.read_bytes()), ShardRecord)
        except FileNotFoundError:
            return None
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:  # of older versions no ValueError
            raise ValueError(
                f"{path} is damaged ({error}); delete it, and give the command that builds the pairs again: it makes "
                f"this shard again."
            ) from None

    def records(self) -> Iterator[tuple[int, ShardRecord]]:
        """The complete shards."""
        for shard in range(len(self)):
            record = self.record(shard)
            if record is not None:
                yield shard, record

    def is_done(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return self.file(shard, "done.json").is_file()

    def unfinished(self) -> list[int]:
        """The shards that are not complete."""
        return [shard for shard in range(len(self)) if not self.is_done(shard)]

    def usable(self, shard: int) -> list[Photograph]:
        """The photographs of a shard that were not skipped; none, if it is not complete."""
        record = self.record(shard)
        return [] if record is None else [p for p in self.photographs(shard) if p.path not in record.skipped]

    def skipped(self) -> dict[str, str]:
        """The photographs that the complete shards could not use, with the reason; not those used at a later try."""
        found: dict[str, str] = {}
        for shard, record in self.records():
            for photograph in self.photographs(shard) if found else ():
                found.pop(photograph.path, None)
            found.update(record.skipped)
        return found

    def read(self, path: str) -> np.ndarray:
        """Read a photograph of the build.

        Args:
            path: Relative to the root of the photographs.

        Returns:
            RGB (H, W, 3) uint8.

        Raises:
            ImageReadError, OSError: See `read_photograph`; or it is smaller than `MIN_SIDE`.
        """
        place, limit = os.path.join(self.settings["photographs"], path), self.settings["max_pixels"]
        image = read_photograph(
            place, short_side=self.settings["short_side"], **({} if limit is None else {"max_pixels": limit})
        )
        if min(image.shape[:2]) < MIN_SIDE:
            raise ImageReadError(
                f"{printable_path(path)}: {image.shape[1]}x{image.shape[0]} pixels are too few, the shorter side must "
                f"have {MIN_SIDE}; remove it, or take a larger version."
            )
        return image


def job_of(folder: str | os.PathLike[str]) -> FolderJob:
    """The job whose record the manifest is; processes own the folder while they plan and while they report."""
    return FolderJob(folder, "basicsr pseudo", "manifest.json")


def automatic_shard_size(photographs: int) -> int:
    """Photographs of a shard: a 64th of all, but 64 to 4096, so that many processes find work and files stay few."""
    return min(max(_SHARDS[0], -(-photographs // 64)), _SHARDS[1])


def plan(
    folder: str | os.PathLike[str],
    paths: Sequence[str],
    settings: Mapping[str, Any],
    shard_size: int | None = None,
    *,
    max_photographs: int | None = None,
    retry: bool = False,
) -> BuildFolder:
    """Begin a build, or resume one; photographs that have come since get shards of their own.

    The caller owns the folder (`job_of`).

    Args:
        folder: Of the build.
        paths: The photographs, relative to their root, sorted.
        settings: See `BuildFolder`.
        shard_size: Photographs of a shard; None for `automatic_shard_size`.
        max_photographs: No more than so many in all; of those that have come since, the first.
        retry: Photographs that complete shards have skipped get new shards, too, under their old keys.

    Raises:
        ValueError: It was begun with other settings or with more than ``max_photographs``, or what has come since
            cannot be distinguished from what was there.
        FileExistsError: The folder holds files of something else.
    """
    job, folder = job_of(folder), Path(folder)
    settings = dict(settings)
    before = job.read()
    if before is None:
        size = shard_size or automatic_shard_size(len(paths[:max_photographs]))
        # First, so that the folder is known to be a build's, whenever the plan is killed.
        job.write({"format": FORMAT, "settings": settings, "shard_size": size, "shards": []})
    else:
        # The same photographs under another path are the same photographs: entries do not depend on where they lie.
        with suppress(OSError, KeyError, TypeError):
            if os.path.samefile(before["settings"]["photographs"], settings["photographs"]):
                settings["photographs"] = before["settings"]["photographs"]
        BuildFolder(folder)  # of another format?
        job.check(settings)
    build = BuildFolder(folder)
    if shard_size not in (None, build.shard_size):
        raise ValueError(
            f"'{folder}' was made with other settings (shard_size: {build.shard_size} then, {shard_size} now)."
        )
    keys = {photograph.path: photograph.key for shard in range(len(build)) for photograph in build.photographs(shard)}
    new = [path for path in paths if path not in keys]
    if max_photographs is not None:
        if len(keys) > max_photographs:
            raise ValueError(
                f"{folder} was begun with {len(keys)} photographs; max_photographs {max_photographs} cannot take any "
                f"away. Leave it at {len(keys)} or more, or choose another folder (out)."
            )
        new = new[: max_photographs - len(keys)]
    photographs = [Photograph(key, path) for key, path in zip(unique_keys(new, set(keys.values())), new, strict=True)]
    if retry and keys:
        waiting = {photograph.path for shard in build.unfinished() for photograph in build.photographs(shard)}
        photographs += [Photograph(keys[path], path) for path in build.skipped() if path not in waiting]
    for first in range(0, len(photographs), build.shard_size):
        part = photographs[first : first + build.shard_size]
        file = build.file(len(build), "photographs.jsonl")
        write_atomically(file, "".join(f"{json.dumps(photograph)}\n" for photograph in part))
        build.sizes.append(len(part))
    if photographs:  # last, so that a killed plan is made again
        shape = {"shard_size": build.shard_size, "shards": build.sizes}
        job.write({"format": FORMAT, "settings": build.settings, **shape})
    return build
