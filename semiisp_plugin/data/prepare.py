"""``basicsr prepare``: data sets as they are distributed -> LMDBs of pairs, name lists, and a record of it all.

    OUT/train/{lq,gt}.lmdb, OUT/test/{lq,gt}.lmdb   PNG values of the data's 8 or 16 bits, equal keys in equal order
    OUT/names/train_100.txt, train_500.txt          the subsets, where there are that many pairs
    OUT/skipped.txt                                 images that could not be used, and why
    OUT/prepared.json                               counts, settings, the split's source

An image that cannot be used is skipped with its reason and never ends a run. A run that was stopped resumes when the
same command is given again; what was skipped is then tried again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2

from semiisp_plugin._version import __version__
from semiisp_plugin.data.layouts import DATA_SETS
from semiisp_plugin.data.layouts.base import SPLITS, DataSet, Listing, Reader, Request
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.subsets import SEED, SIZES, subset
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import SKIPPED, UNUSABLE, FolderJob, Journal, counted, mapped, progress_bar, reason_of
from semiisp_plugin.io.image_io import encode_png
from semiisp_plugin.io.lmdb_io import LmdbImageWriter, read_meta

RECORD = "prepared.json"
"""Name of the record in the prepared folder."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_SHOWN = 5
_SHOWN_BY_CHECK = 100
_LMDBS = ("lq.lmdb", "gt.lmdb")
_MEASURED = "measured.jsonl"


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr prepare``; see `semiisp_plugin.arguments`.

    Raises:
        ValueError: Something is wrong with the request or the source, or a check found something wrong.
    """
    data_set = DATA_SETS[args.name]
    request = Request(**{f.name: getattr(args, f.name) for f in fields(Request)})
    _check_request(data_set, request)
    if args.check and args.out:
        raise ValueError("--check writes nothing: leave --out out, or --check.")
    if args.check:
        check_pairs(data_set, request, workers=args.workers)
    elif args.out:
        prepare_pairs(data_set, request, args.out, workers=args.workers)
    else:
        raise ValueError("give the folder to write with --out DIR, or --check to verify the source only.")


def _check_request(data_set: DataSet, request: Request) -> None:
    """Raise a ValueError for options that are not this data set's."""
    default = Request()
    for given in fields(Request):
        taken = given.name == "source" or given.name in data_set.options
        if not taken and getattr(request, given.name) != getattr(default, given.name):
            takers = ", ".join(other.name for other in DATA_SETS.values() if given.name in other.options)
            raise ValueError(f"--{given.name} is not an option of {data_set.name}, but of {takers}. Leave it out.")


# --- pairs ----------------------------------------------------------------------------------------------------------


class _Outcome(NamedTuple):
    """What came of a pair.

    Attributes:
        pair: The pair.
        problem: Why it is skipped; None if it is not.
        images: (PNG bytes, shape) of the input and the target, where they were to be encoded.
        noted: Bits of the two, alignment and notes (see `semiisp_plugin.data.layouts.base.PairImages`), sizes of the
            files in bytes: others, if they were replaced.
    """

    pair: Pair
    problem: str | None = None
    images: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    noted: Mapping[str, Any] = {}


def _read(pair: Pair, reader: Reader, encode: bool) -> _Outcome:
    """Read, and perhaps encode, a pair."""
    try:
        read = reader(pair)
        images = (read.input, read.target)
        encoded = tuple((encode_png(image), image.shape) for image in images) if encode else ()
    except UNUSABLE as error:
        return _Outcome(pair, reason_of(error))
    noted = {
        "bits": [8 * image.itemsize for image in images],
        "alignment": None if read.alignment is None else round(read.alignment, 3),
        "notes": read.notes,
        "bytes": _sizes(pair),
    }
    return _Outcome(pair, None, encoded, noted)


def prepare_pairs(
    data_set: DataSet, request: Request, out: str | os.PathLike[str], *, workers: int = 0
) -> dict[str, Any]:
    """Write a data set of pairs.

    Args:
        data_set: One of `semiisp_plugin.data.layouts.DATA_SETS`.
        request: Where it is, and its options.
        out: Folder to write, new, empty, or left by the same command.
        workers: Threads that read and encode; 0 for the calling one alone.

    Returns:
        What ``prepared.json`` holds.

    Raises:
        ValueError: The source is not this data set, images lack partners, ``out`` was made by another command, or no
            pair can be read.
    """
    job = FolderJob(Path(out).expanduser(), "basicsr prepare", RECORD, option="--out")
    job.read()  # a folder of something else is refused before the source is looked through
    listing = _listing(data_set, request)
    if listing.errors:
        raise ValueError(". ".join(f"{what}: {text}" for what, text in listing.errors.items()))
    if listing.missing and not request.partial:
        raise ValueError(
            f"{counted(len(listing.missing), 'incomplete pair')}. {_first(listing.missing)}. Complete the data set, or "
            "leave these out with --partial."
        )
    settings = {
        "data_set": data_set.name,
        "source": {
            name: os.path.abspath(os.path.expanduser(value))
            for name in ("source", "input", "target")
            if (value := getattr(request, name))
        },
        **listing.settings,
        **{split: _digest([pair.key for pair in listing.splits.get(split, [])]) for split in SPLITS},
    }
    left_out = {**listing.left_out, **(listing.missing if request.partial else {})}
    record: dict[str, Any] = {
        "split_source": listing.split_source,
        "left_out": left_out,
        "warnings": listing.warnings,
        "versions": _versions(),
    }
    with job.begun(settings, **record) as resumed:
        _show_listing(data_set, listing, resumed=resumed)
        if left_out:
            print(f"{counted(len(left_out), 'name')} left out ({RECORD} has all): {_first(left_out)}")
        record |= {"counts": {}, "skipped": {}, "notes": {}, "alignment": {}}
        for split in SPLITS:
            pairs = listing.splits.get(split, [])
            written: dict[str, Any] = {}
            if pairs:
                record["skipped"][split], written = _write_split(
                    job.folder / split, pairs, listing.reader, split, workers
                )
            record["counts"][split] = {
                "listed": len(pairs),
                "written": len(written),
                "expected": data_set.expected.get(split),
            }
            _sum_up(record, split, written)
        skipped = {f"{split}/{key}": why for split, those in record["skipped"].items() for key, why in those.items()}
        job.write_skipped(skipped)
        if not any(count["written"] for count in record["counts"].values()):
            raise ValueError(f"not one pair could be used; {len(skipped)} skipped. {_first(skipped)}")
        record["names"] = _write_names(job.folder) if record["counts"]["train"]["written"] else {}
        record = {"settings": settings, **record, "complete": True}
        job.write(record)
    _show_result(job.folder, record)
    return record


def check_pairs(data_set: DataSet, request: Request, *, workers: int = 0) -> None:
    """Verify a data set's source: folders, partners, counts, and every image; writes nothing.

    Raises:
        ValueError: Something is wrong; what is was printed.
    """
    listing = _listing(data_set, request)
    _show_listing(data_set, listing)
    left_out = {**listing.left_out, **(listing.missing if request.partial else {})}
    if left_out:
        print(f"{counted(len(left_out), 'name')} would be left out: {_first(left_out)}")
    problems = {**listing.errors, **({} if request.partial else listing.missing)}
    sums: dict[str, Any] = {"notes": {}, "alignment": {}}
    for split, pairs in listing.splits.items():
        work = partial(_read, reader=listing.reader, encode=False)
        outcomes = list(_shown(work, pairs, workers, f"check {split}"))
        good = {o.pair.key: o.noted for o in outcomes if o.problem is None}
        problems |= {f"{split}/{o.pair.key}": o.problem for o in outcomes if o.problem is not None}
        if pairs:
            depths = Counter(tuple(noted["bits"]) for noted in good.values()).most_common()
            text = ", ".join(f"{n}: {a}-bit inputs, {b}-bit targets" for (a, b), n in depths)
            print(f"{split}: {len(good)} of {len(pairs)} pairs can be used" + (f" ({text})" if text else ""))
        _sum_up(sums, split, good)
    _show_sums(sums)
    for line in _by_reason(problems, _SHOWN_BY_CHECK):
        print(f"  wrong: {line}")
    if problems:
        raise ValueError(f"{counted(len(problems), 'thing')} wrong with this {data_set.name}; see the list above.")
    print("Nothing wrong was found." + (" See the warnings above." if listing.warnings else ""))


def _sum_up(record: dict[str, Any], split: str, pairs: Mapping[str, Mapping[str, Any]]) -> None:
    """Put what was noted of a split's pairs into the record, in sum."""
    notes = Counter(note for noted in pairs.values() for note in noted["notes"])
    if notes:
        record["notes"][split] = dict(notes.most_common())
    aligned = {key: noted["alignment"] for key, noted in pairs.items() if noted["alignment"] is not None}
    if aligned:
        lowest = sorted(aligned.items(), key=lambda item: item[1])[:10]
        record["alignment"][split] = {"measured": len(aligned), "lowest": dict(lowest)}


def _listing(data_set: DataSet, request: Request) -> Listing:
    """The data set's pairs, with warnings about their number."""
    listing = data_set.find(request)
    for split, expected in data_set.expected.items():
        found = len(listing.splits.get(split, []))
        if 0 < found != expected:
            listing.warnings.append(
                f"{split} has {found} pairs; {data_set.name} has {expected}. Is the copy complete, and is it this data "
                "set? Numbers measured on it cannot be compared with published ones."
            )
    return listing


def _write_split(
    folder: Path, pairs: Sequence[Pair], reader: Reader, split: str, workers: int
) -> tuple[dict[str, str], dict[str, Any]]:
    """Write what is not there yet of a split; returns what was skipped, and why, and what was noted of the others."""
    skipped = {}
    with ExitStack() as stack:
        lq, gt = (stack.enter_context(LmdbImageWriter(folder / name, resume=True)) for name in _LMDBS)
        journal = stack.enter_context(Journal(folder / _MEASURED))
        # What was stored of one image alone, or of files that are others now, is made again.
        done = {
            pair.key
            for pair in pairs
            if pair.key in lq and pair.key in gt and journal.entries.get(pair.key, {}).get("bytes") == _sizes(pair)
        }
        for writer in (lq, gt):
            writer.discard(writer.keys() - done)
        todo = [pair for pair in pairs if pair.key not in done]
        work = partial(_read, reader=reader, encode=True)
        for outcome in _shown(work, todo, workers, split, done=len(done)):
            key = outcome.pair.key
            if outcome.problem is not None:
                skipped[key] = outcome.problem
                continue
            journal.add({key: outcome.noted})
            for writer, (png, shape) in zip((lq, gt), outcome.images, strict=True):
                writer.put(key, png, shape)
        return skipped, {pair.key: journal.entries[pair.key] for pair in pairs if pair.key in lq}


def _sizes(pair: Pair) -> list[int]:
    """Sizes of a pair's files in bytes: others, if the files were replaced."""
    return [os.path.getsize(path) if os.path.exists(path) else -1 for path in (pair.input, pair.target)]


def _shown(work: Callable[[_T], _R], items: Sequence[_T], workers: int, what: str, done: int = 0) -> Iterator[_R]:
    """`mapped`, with a progress bar."""
    with progress_bar(len(items) + done, what, "image", done=done) as bar:
        for result in mapped(work, items, workers):
            yield result
            bar.update()


def _write_names(target: Path) -> dict[str, str]:
    """Write the lists of subsets; returns where each comes from."""
    names = [entry.key for entry in read_meta(target / "train" / _LMDBS[0])]
    sources: dict[str, str] = {}
    for size in SIZES:
        if len(names) >= size:
            text = "".join(f"{name}\n" for name in subset(names, size))
            write_atomically(target / "names" / f"train_{size}.txt", text)
            sources[f"train_{size}"] = f"ranked by the SHA-256 of '{SEED}:<name>'"
    return sources


# --- the job --------------------------------------------------------------------------------------------------------


def _digest(names: Sequence[str]) -> str:
    """Number of names and a hash: tells another state of the source."""
    text = "\n".join(names).encode("utf-8", "surrogateescape")
    return f"{len(names)}, {hashlib.sha256(text).hexdigest()[:16]}"


def _versions() -> dict[str, str]:
    versions = {"semiisp_plugin": __version__, "opencv": cv2.__version__}
    rawpy = sys.modules.get("rawpy")
    if rawpy is not None:
        versions |= {"rawpy": rawpy.__version__, "libraw": ".".join(str(n) for n in rawpy.libraw_version)}
    return versions


# --- what is printed ------------------------------------------------------------------------------------------------


def _first(reasons: dict[str, str]) -> str:
    """The first few reasons with what they apply to, and how many there are."""
    lines = _by_reason(reasons, _SHOWN)
    return "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")


def _by_reason(reasons: dict[str, str], shown: int) -> list[str]:
    """A line for each reason, with the first names that it applies to: "a, b and 3 more: there is no target"."""
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    return [
        ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "") + f": {reason}"
        for reason, names in grouped.items()
    ]


def _show_listing(data_set: DataSet, listing: Listing, *, resumed: bool = False) -> None:
    print(data_set.name + ("; resuming an earlier run" if resumed else ""))
    for line in listing.found:
        print(f"  {line}")
    counts = ", ".join(
        f"{split} {len(pairs)}" + (f" (expected {data_set.expected[split]})" if split in data_set.expected else "")
        for split, pairs in listing.splits.items()
    )
    print(f"  pairs: {counts}")
    print(f"  split: {listing.split_source}")
    for note in data_set.notes:
        print(f"Note: {note}")
    for warning in listing.warnings:
        print(f"Warning: {warning}")


def _show_sums(record: dict[str, Any]) -> None:
    for split, notes in record["notes"].items():
        for note, number in list(notes.items())[:_SHOWN]:
            print(f"Warning: {split}: {counted(number, 'time')}: {note}")
        if len(notes) > _SHOWN:
            print(
                f"Warning: {split}: and {len(notes) - _SHOWN} more; {RECORD} counts them, {_MEASURED} has them by pair"
            )
    for split, found in record["alignment"].items():
        key, alignment = next(iter(found["lowest"].items()))
        print(f"{split}: the least aligned pair is '{key}' with {alignment:.2f}")


def _show_result(target: Path, record: dict[str, Any]) -> None:
    for split, count in record["counts"].items():
        if count["listed"]:
            expected = f", {count['expected']} expected" if count["expected"] else ""
            print(f"{split}: {counted(count['written'], 'pair')} in {target / split}{expected}")
    for split, skipped in record["skipped"].items():
        if skipped:
            print(f"{split}: {counted(len(skipped), 'pair')} skipped ({target / SKIPPED} has all): {_first(skipped)}")
    _show_sums(record)
    for name, source in record["names"].items():
        print(f"{target / 'names' / name}.txt: {source}")
    print(f"For an option file, in place of its section 'datasets':\n{option_lines(target, record)}")


def option_lines(target: Path, record: dict[str, Any]) -> str:
    """Lines for the data sets of an option file."""

    def quoted(path: Path) -> str:
        return json.dumps(str(path.absolute()), ensure_ascii=False)

    lines = ["datasets:"]
    for split, section in (("train", "train"), ("test", "val")):
        if not record["counts"][split]["written"]:
            continue
        lines += [
            f"  {section}:",
            f"    name: {record['settings']['data_set']}_{split}",
            "    type: PairedRestorationDataset",
            f"    dataroot_lq: {quoted(target / split / 'lq.lmdb')}",
            f"    dataroot_gt: {quoted(target / split / 'gt.lmdb')}",
            "    io_backend: {type: lmdb}",
        ]
        if split == "train":
            lines += ["    gt_size: 128", "    use_hflip: true", "    use_rot: true", "    batch_size_per_gpu: 4"]
            for name in record["names"]:
                lines.append(f"    # meta_info_file: {quoted(target / 'names' / f'{name}.txt')}  # only these pairs")
    return "\n".join(lines)
