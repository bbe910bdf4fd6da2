"""The folder of a build of pseudo pairs: what it is made with, which photographs belong to which shard, what is done.

::

    manifest.json                   settings, root of the photographs, number of photographs of each shard
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

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.lmdb_io import unique_keys

FORMAT = 1
SETS = {"stored": ("gt", "lq"), "online": ("gt",), "keys": ()}
"""What a build stores, by its mode: pseudo ground truths and inputs, ground truths, or nothing but keys."""

_SHARDS = (64, 4096)


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
        set_aside: Photographs that could not be used, with the reason.
    """

    photographs: int
    pairs: int
    bytes: dict[str, int]
    clipped: float
    set_aside: dict[str, str]


class Manifest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``manifest.json``.

    Attributes:
        format: Version of the folder's layout.
        mode: See `SETS`.
        made_with: Everything that the entries depend on besides the photographs.
        photographs: Root of the photographs, absolute.
        shard_size: Photographs of a shard.
        shards: Number of photographs of each shard.
    """

    format: int
    mode: Literal["stored", "online", "keys"]
    made_with: dict[str, Any]
    photographs: str
    shard_size: int
    shards: list[int]


class BuildFolder:
    """A build that was begun.

    Args:
        folder: Its folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: Its manifest cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            self.manifest = msgspec.convert(json.loads(path.read_bytes()), Manifest)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"'{folder}' holds no manifest.json, so it is no build of pseudo pairs; give the folder (out) of a "
                f"`basicsr pseudo` run."
            ) from None
        except (ValueError, msgspec.ValidationError) as error:
            raise ValueError(f"{path} cannot be read ({error}); delete the folder and build it anew.") from None
        if self.manifest.format != FORMAT:
            raise ValueError(
                f"{path} is of format {self.manifest.format}, this version reads {FORMAT}; build the pairs anew."
            )

    @property
    def mode(self) -> str:
        """See `SETS`."""
        return self.manifest.mode

    @property
    def n_photographs(self) -> int:
        """Photographs of all shards, those set aside included; those tried again count twice."""
        return sum(self.manifest.shards)

    def __len__(self) -> int:
        """Number of shards."""
        return len(self.manifest.shards)

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
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is missing or damaged ({error}); delete the build and make it anew.") from None
        if len(found) != self.manifest.shards[shard]:
            raise ValueError(
                f"{path} lists {len(found)} photographs, the manifest {self.manifest.shards[shard]}; delete the build "
                f"and make it anew."
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
        except (ValueError, msgspec.ValidationError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete it, and give the command that builds the pairs again: it makes "
                f"this shard anew."
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

    def usable_photographs(self) -> Iterator[Photograph]:
        """The photographs of the complete shards that were not set aside."""
        for shard, record in self.records():
            for photograph in self.photographs(shard):
                if photograph.path not in record.set_aside:
                    yield photograph


def to_json(value: Manifest | ShardRecord) -> str:
    """As it is written; not by msgspec's encoder, which refuses file names that are no text."""
    return json.dumps(msgspec.to_builtins(value), indent=1) + "\n"


def automatic_shard_size(photographs: int) -> int:
    """Photographs of a shard: a 64th of all, but 64 to 4096, so that many processes find work and files stay few."""
    return min(max(_SHARDS[0], -(-photographs // 64)), _SHARDS[1])


def plan(
    folder: str | os.PathLike[str],
    root: str,
    paths: Sequence[str],
    mode: Literal["stored", "online", "keys"],
    made_with: dict[str, Any],
    shard_size: int | None = None,
    *,
    max_photographs: int | None = None,
    retry: bool = False,
) -> BuildFolder:
    """Begin a build, or go on with one; photographs that have come since get shards of their own.

    The caller holds a lock on the folder.

    Args:
        folder: Of the build.
        root: Of the photographs.
        paths: The photographs, relative to ``root``, sorted.
        mode: See `SETS`.
        made_with: Everything that the entries depend on besides the photographs; values of JSON.
        shard_size: Photographs of a shard; None for `automatic_shard_size`.
        max_photographs: No more than so many in all; of those that have come since, the first.
        retry: Photographs that complete shards have set aside get new shards, too, under their old keys.

    Raises:
        ValueError: It was begun with something else or with more than ``max_photographs``, or what has come since
            cannot be told from what was there.
        FileExistsError: The folder holds LMDBs, but no manifest.
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        there = [name for name in ("gt.lmdb", "lq.lmdb") if (folder / name).exists()]
        if there:
            raise FileExistsError(
                f"{folder} holds {' and '.join(there)} but no manifest.json: they are of another program or version. "
                f"Delete them, or choose another folder (out)."
            )
        manifest = Manifest(
            format=FORMAT,
            mode=mode,
            made_with=made_with,
            photographs=os.path.abspath(root),
            shard_size=shard_size or automatic_shard_size(len(paths[:max_photographs])),
            shards=[],
        )
        keys: dict[str, str] = {}  # of the photographs that are planned, by path
    else:
        build = BuildFolder(folder)
        manifest = build.manifest
        _check_same(folder, manifest, root, mode, made_with, shard_size)
        keys = {
            photograph.path: photograph.key for shard in range(len(build)) for photograph in build.photographs(shard)
        }
    new = [path for path in paths if path not in keys]
    if max_photographs is not None:
        if len(keys) > max_photographs:
            raise ValueError(
                f"{folder} was begun with {len(keys)} photographs; max_photographs {max_photographs} cannot take any "
                f"away. Leave it at {len(keys)} or more, or choose another folder (out)."
            )
        new = new[: max_photographs - len(keys)]
    photographs = [Photograph(key, path) for key, path in zip(_new_keys(new, set(keys.values())), new, strict=True)]
    if retry and keys:
        waiting = {photograph.path for shard in build.unfinished() for photograph in build.photographs(shard)}
        photographs += [Photograph(keys[path], path) for path in set_aside(build) if path not in waiting]
    if photographs:
        for first in range(0, len(photographs), manifest.shard_size):
            part = photographs[first : first + manifest.shard_size]
            file = folder / "shards" / f"{len(manifest.shards):05d}.photographs.jsonl"
            write_atomically(file, "".join(f"{json.dumps(photograph)}\n" for photograph in part))
            manifest.shards.append(len(part))
        # Last, so that a killed plan is made again.
        write_atomically(folder / "manifest.json", to_json(manifest))
    return BuildFolder(folder)


def set_aside(build: BuildFolder) -> dict[str, str]:
    """The photographs that the complete shards could not use, with the reason; not those used at a later try."""
    found: dict[str, str] = {}
    for shard, record in build.records():
        for photograph in build.photographs(shard) if found else ():
            found.pop(photograph.path, None)
        found.update(record.set_aside)
    return found


def _new_keys(paths: Sequence[str], taken: set[str]) -> list[str]:
    """Keys of photographs that have come since; one that is called as an old one but for its extension keeps that."""
    found = []
    for path, key in zip(paths, unique_keys(paths), strict=True):
        if key in taken:
            key = f"{key}~{os.path.splitext(path)[1].removeprefix('.')}"
        if key in taken:
            raise ValueError(f"'{path}' would have the key '{key}', which is another photograph's; rename the file.")
        found.append(key)
    return found


def _check_same(
    folder: Path, manifest: Manifest, root: str, mode: str, made_with: dict[str, Any], shard_size: int | None
) -> None:
    """Raise ValueError unless a build is gone on with as it was begun."""
    before = {"mode": manifest.mode, "photographs": manifest.photographs, **manifest.made_with}
    now = {"mode": mode, "photographs": os.path.abspath(root), **made_with}
    if shard_size is not None:
        before["shard_size"], now["shard_size"] = manifest.shard_size, shard_size
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    # The same photographs under another path are the same photographs: entries do not depend on where they lie.
    with contextlib.suppress(OSError):
        if "photographs" in different and os.path.samefile(str(before["photographs"]), root):
            different.remove("photographs")
    if different:
        changes = ", ".join(f"{key}: {_shown(before, key)} -> {_shown(now, key)}" for key in different)
        raise ValueError(
            f"{folder} was begun with other settings ({changes}); going on would mix two kinds of pairs. Go back to "
            f"the former ones, delete the folder, or choose another (out)."
        )


def _shown(values: dict[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "not given"
