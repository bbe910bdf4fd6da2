"""Is a build of pseudo pairs complete and undamaged? Reads everything, writes nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from PIL.PngImagePlugin import PngImageFile

from semiisp_plugin.io.folder_job import progress_bar
from semiisp_plugin.io.image_io import printable_path
from semiisp_plugin.io.lmdb_io import META_NAME, MetaEntry, read_meta, read_value
from semiisp_plugin.pseudo.manifest import SETS, BuildFolder, Photograph, ShardRecord, pair_keys


def check_build(build: BuildFolder, *, progress: bool = True) -> list[str]:
    """Compare what a build holds with its plan and its records, entry by entry, by the checksums inside the PNGs.

    Args:
        build: The build.
        progress: Show a progress bar.

    Returns:
        What is wrong, a sentence each; nothing, if the build is complete and undamaged.
    """
    if len(build) == 0:
        return ["Its plan was interrupted: run the command that builds it again."]
    found: list[str] = []
    with progress_bar(len(build), "checking", "shard", shown=progress, in_logs=True) as bar:
        for shard in range(len(build)):
            bar.update()
            try:
                record = build.record(shard)
                if record is None:
                    found.append(f"Shard {shard:05d} is not complete: run the command that builds it again.")
                else:
                    found += _check_shard(build, shard, record, build.usable(shard))
            except ValueError as error:
                found.append(str(error))
    if not build.unfinished():
        for name in SETS[build.mode]:
            if not (build.folder / f"{name}.lmdb" / META_NAME).is_file():
                found.append(f"{name}.lmdb/{META_NAME} is missing: run the command that builds it again.")
    return found


def _check_shard(
    build: BuildFolder, shard: int, record: ShardRecord, photographs: Sequence[Photograph]
) -> Iterator[str]:
    """What is wrong with a complete shard of which these photographs could be used."""
    draws = int(build.settings["draws"])
    expected = [key for p in photographs for key in pair_keys(p.key, draws)]
    if len(expected) != record.pairs:
        yield f"Shard {shard:05d}: its list has {len(expected)} pairs, its record {record.pairs}."
    shapes: dict[str, tuple[int, int, int]] = {}
    for name in SETS[build.mode]:
        folder = build.lmdb(shard, name)
        where = f"{name}.lmdb/{folder.name}"
        rebuild = f"Delete {where} and shards/{shard:05d}.done.json, and build it again."
        try:
            entries = {entry.key: entry for entry in read_meta(folder)}
        except (OSError, ValueError) as error:
            yield f"{where} cannot be read: {error} {rebuild}"
            continue
        missing = [key for key in expected if key not in entries]
        if missing:
            yield f"{where} lacks {len(missing)} of {len(expected)} entries, '{missing[0]}' among them. {rebuild}"
        size = 0
        for key in expected:
            if key not in entries:
                continue
            try:
                value = read_value(folder, key)
            except KeyError as error:
                yield f"{where}: '{key}' cannot be read: {error}. {rebuild}"
                continue
            except (OSError, RuntimeError) as error:  # none of them can
                yield f"{error} {rebuild}"
                break
            size += len(value)
            problem = _damage(value, entries[key])
            if problem is None and shapes.setdefault(key, entries[key].shape) != entries[key].shape:
                problem = f"is {entries[key].shape[:2]}, the ground truth {shapes[key][:2]} (height, width)"
            if problem is not None:
                yield f"{where}: '{key}' {problem}. {rebuild}"
        else:
            if not missing and size != record.bytes.get(name):
                yield f"{where} holds {size} bytes of images, its record says {record.bytes.get(name)}. {rebuild}"


def _damage(value: bytes, entry: MetaEntry) -> str | None:
    """What is wrong with a PNG: its checksums, its end, or its size."""
    try:
        with PngImageFile(io.BytesIO(value)) as image:
            width, height = image.size
            image.verify()
    except Exception as error:  # Pillow's readers signal damage by nearly any exception
        return f"is damaged ({error})"
    if (height, width) != entry.shape[:2]:
        return f"is {height}x{width} (height x width), its list says {entry.shape[0]}x{entry.shape[1]}"
    return None


def print_check(folder: str, *, progress: bool = True) -> None:
    """Check a build and say what was found.

    Raises:
        ValueError: Something is wrong with it; all of it has been printed.
        FileNotFoundError: There is no build.
    """
    build = BuildFolder(folder)
    problems = check_build(build, progress=progress)
    for problem in problems:
        print(printable_path(problem))
    if problems:
        raise ValueError(f"{folder}: {len(problems)} problem{'s' * (len(problems) > 1)}, see above.")
    pairs = sum(record.pairs for _, record in build.records())
    print(f"{folder} is complete and undamaged: {pairs} entries of {build.n_photographs} photographs, {build.mode}.")
