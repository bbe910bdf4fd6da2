"""``basicsr prepare``: data sets as they are distributed -> LMDBs of pairs, name lists, and a record of it all.

    OUT/train/{lq,gt}.lmdb, OUT/test/{lq,gt}.lmdb   PNG values of the data's 8 or 16 bits, equal keys in equal order
    OUT/names/train_100.txt, train_500.txt          the subsets, where there are that many pairs
    OUT/prepared.json                               counts, settings, what was set aside and why, the split's source

An image that cannot be used is set aside with its reason and never ends a run. A run that was stopped goes on when the
same command is given again; what was set aside is then tried again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
from tqdm import tqdm

from semiisp_plugin._version import __version__
from semiisp_plugin.data.layouts import DATA_SETS, photographs
from semiisp_plugin.data.layouts.base import SPLITS, DataSet, Listing, Reader, Request
from semiisp_plugin.data.pairs import Pair
from semiisp_plugin.data.subsets import SEED, SIZES, shipped, subset
from semiisp_plugin.io.files import write_atomically
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
_PHOTOGRAPHS, _SET_ASIDE, _JOURNAL = "photographs.txt", "set_aside.txt", "checked.jsonl"


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr prepare``; see `semiisp_plugin.arguments`.

    Raises:
        ValueError: Something is wrong with the request or the source, or a check found something wrong.
    """
    request = Request(**{f.name: getattr(args, f.name) for f in fields(Request)})
    _check_request(args.name, request, out=args.out, check=args.check, workers=args.workers)
    if args.name in DATA_SETS:
        data_set = DATA_SETS[args.name]
        if args.check:
            check_pairs(data_set, request, workers=args.workers)
        else:
            prepare_pairs(data_set, request, args.out, workers=args.workers)
    elif args.check:
        check_photographs(args.name, request, workers=args.workers)
    else:
        prepare_photographs(args.name, request, args.out, workers=args.workers)


def _check_request(name: str, request: Request, *, out: str | None, check: bool, workers: int) -> None:
    """Raise a ValueError for options that contradict each other or are not this data set's."""
    if not out and not check:
        raise ValueError("give the folder to write with --out DIR, or --check to verify the source only.")
    if workers < 0:
        raise ValueError(f"--workers is {workers}; it must be 0 or more.")
    default = Request()
    takes = DATA_SETS[name].options if name in DATA_SETS else frozenset()
    takes = takes | {"source"}
    for given in fields(Request):
        if getattr(request, given.name) != getattr(default, given.name) and given.name not in takes:
            takers = [s.name for s in DATA_SETS.values() if given.name in s.options]
            raise ValueError(f"--{given.name} is not an option of {name}, but of {', '.join(takers)}. Leave it out.")
    for option in ("short_side", "test_pairs"):
        value = getattr(request, option)
        if value is not None and value < (32 if option == "short_side" else 0):
            raise ValueError(f"--{option} is {value}; it must be {'32' if option == 'short_side' else '0'} or more.")
    if not -1 <= request.min_alignment <= 1:
        raise ValueError(f"--min_alignment is {request.min_alignment}; it must lie between -1 and 1.")


# --- pairs ----------------------------------------------------------------------------------------------------------


class EncodedPair(NamedTuple):
    """A pair as PNG, or why there is none.

    Attributes:
        problem: Why the pair is set aside; None if it is not.
        images: (PNG bytes, shape) of the input and the target.
        depths: Bits of the input and the target.
        alignment: See `semiisp_plugin.data.layouts.base.PairImages`.
        notes: Likewise.
    """

    problem: str | None
    images: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    depths: tuple[int, int] | None = None
    alignment: float | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Tally:
    """What came of the pairs of a split.

    Attributes:
        set_aside: Key -> reason.
        depths: How many pairs have which bits of input and target.
        notes: How often the readers noted something.
        alignment: Key -> measure of alignment, where it was taken.
    """

    set_aside: dict[str, str] = field(default_factory=dict)
    depths: Counter[tuple[int, int]] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    alignment: dict[str, float] = field(default_factory=dict)

    def add(self, key: str, result: EncodedPair) -> None:
        """Count a result."""
        if result.problem is not None:
            self.set_aside[key] = result.problem
            return
        if result.depths:
            self.depths[result.depths] += 1
        self.notes.update(result.notes)
        if result.alignment is not None:
            self.alignment[key] = round(result.alignment, 3)


@dataclass(frozen=True)
class _Task:
    """Reads, and perhaps encodes, a pair."""

    reader: Reader
    encode: bool

    def __call__(self, pair: Pair) -> EncodedPair:
        try:
            images = self.reader(pair)
            depths = (8 * images.input.dtype.itemsize, 8 * images.target.dtype.itemsize)
            if images.input.shape != images.target.shape:
                raise ValueError(f"input {images.input.shape} and target {images.target.shape} differ in size.")
            encoded = (
                tuple((encode_png(image), image.shape) for image in (images.input, images.target))
                if self.encode
                else ()
            )
        except (ValueError, OSError, cv2.error) as error:
            return EncodedPair(" ".join(str(error).split()) or type(error).__name__)
        return EncodedPair(None, encoded, depths, images.alignment, images.notes)


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
    target = _out_folder(out)
    listing = _listing(data_set, request)
    if listing.errors:
        raise ValueError(". ".join(f"{what}: {text}" for what, text in listing.errors.items()))
    if listing.missing and not request.partial:
        raise ValueError(
            f"{_number(len(listing.missing), 'incomplete pair')}. {_first(listing.missing)}. Complete the data set, or "
            "leave these out with --partial."
        )
    settings = {
        "source": {
            name: os.path.abspath(os.path.expanduser(value))
            for name in ("source", "input", "target")
            if (value := getattr(request, name))
        },
        **listing.settings,
        **{split: _digest(listing.splits.get(split, [])) for split in SPLITS},
    }
    left_out = {**listing.left_out, **(listing.missing if request.partial else {})}
    record: dict[str, Any] = {
        "data_set": data_set.name,
        "complete": False,
        "settings": settings,
        "split_source": listing.split_source,
        "left_out": left_out,
        "warnings": listing.warnings,
        "versions": _versions(),
    }
    resumed = _begin(target, record)
    _show_listing(data_set, listing, resumed=resumed)
    if left_out:
        print(f"{_number(len(left_out), 'name')} left out ({RECORD} has all): {_first(left_out)}")
    tallies = {}
    with _locked(target):
        for split in SPLITS:
            pairs = listing.splits.get(split, [])
            if pairs:
                tallies[split] = _write_split(target / split, pairs, listing.reader, split, workers)
    record["counts"] = {split: _count(target / split, len(listing.splits.get(split, []))) for split in SPLITS}
    if not any(count["written"] for count in record["counts"].values()):
        reasons = {key: reason for tally in tallies.values() for key, reason in tally.set_aside.items()}
        raise ValueError(f"not one pair could be used; {len(reasons)} set aside. {_first(reasons)}")
    for split, count in record["counts"].items():
        count["expected"] = data_set.expected.get(split)
    record["set_aside"] = {split: tally.set_aside for split, tally in tallies.items()}
    record["notes"], record["alignment"] = {}, {}
    for split in tallies:
        alignments, notes = _read_measured(target / split)
        if notes:
            record["notes"][split] = dict(notes.most_common())
        if alignments:
            lowest = sorted(alignments.items(), key=lambda item: item[1])[:10]
            record["alignment"][split] = {"measured": len(alignments), "lowest": dict(lowest)}
    record["names"] = _write_names(target, data_set)
    record["complete"] = True
    _write_json(target / RECORD, record)
    _show_result(target, record)
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
        print(f"{_number(len(left_out), 'name')} would be left out: {_first(left_out)}")
    problems = {**listing.errors, **({} if request.partial else listing.missing)}
    for split, pairs in listing.splits.items():
        tally = Tally()
        for pair, result in _map(_Task(listing.reader, encode=False), pairs, workers, f"check {split}"):
            tally.add(pair.key, result)
        problems |= {f"{split}/{key}": reason for key, reason in tally.set_aside.items()}
        if pairs:
            print(
                f"{split}: {len(pairs) - len(tally.set_aside)} of {len(pairs)} pairs can be used"
                f"{_depth_text(tally.depths)}"
            )
        _show_notes(split, tally)
    if problems:
        for line in _by_reason(problems, _SHOWN_BY_CHECK):
            print(f"  wrong: {line}")
        raise ValueError(f"{_number(len(problems), 'thing')} wrong with this {data_set.name}; see the list above.")
    print("Nothing wrong was found." + (" See the warnings above." if listing.warnings else ""))


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


def _digest(pairs: Sequence[Pair]) -> str:
    """Number of pairs and a hash of their keys: tells another state of the source."""
    text = "\n".join(pair.key for pair in pairs)
    return f"{len(pairs)} pairs, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _write_split(folder: Path, pairs: Sequence[Pair], reader: Reader, split: str, workers: int) -> Tally:
    """Write what is not yet there of a split."""
    tally = Tally()
    with ExitStack() as stack:
        lq, gt = (stack.enter_context(LmdbImageWriter(folder / name, resume=True)) for name in _LMDBS)
        before = _read_journal(folder / _MEASURED, "key")
        # What was stored of one image alone, or of files that are others now, is made anew.
        done = {
            pair.key
            for pair in pairs
            if pair.key in lq and pair.key in gt and before.get(pair.key, {}).get("bytes") == _sizes(pair)
        }
        for writer in (lq, gt):
            writer.discard(writer.keys() - done)
        todo = [pair for pair in pairs if pair.key not in done]
        progress = tqdm(total=len(pairs), initial=len(done), desc=split, unit="pair", disable=not sys.stderr.isatty())
        stack.callback(progress.close)
        for pair, result in _map(_Task(reader, encode=True), todo, workers):
            tally.add(pair.key, result)
            progress.update()
            if result.problem is None:
                noted = {"alignment": tally.alignment.get(pair.key), "notes": result.notes, "bytes": _sizes(pair)}
                _append(folder / _MEASURED, {"key": pair.key, **noted})
            for writer, (png, shape) in zip((lq, gt), result.images, strict=False):
                writer.put(pair.key, png, shape)
    return tally


def _sizes(pair: Pair) -> list[int]:
    """Sizes of a pair's files in bytes: others, if the files were replaced."""
    return [_size(pair.input), _size(pair.target)]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _map(
    work: Callable[[_T], _R], items: Sequence[_T], workers: int, progress: str | None = None
) -> Iterator[tuple[_T, _R]]:
    """Do work on items, in order; with a bounded number of results waiting, whatever their size."""
    shown: Iterable[tuple[_T, _R]] = _in_order(work, items, workers)
    if progress is not None:
        shown = tqdm(shown, total=len(items), desc=progress, disable=not sys.stderr.isatty())
    yield from shown


def _in_order(work: Callable[[_T], _R], items: Sequence[_T], workers: int) -> Iterator[tuple[_T, _R]]:
    if workers == 0 or not items:
        for item in items:
            yield item, work(item)
        return
    # Threads: decoding, developing and encoding release Python's lock, and nothing has to be sent to them.
    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[_T, Future[_R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _count(folder: Path, listed: int) -> dict[str, Any]:
    """What a split's LMDBs hold, verified to be the same in both."""
    if not listed:
        return {"listed": 0, "written": 0}
    keys = [[entry.key for entry in read_meta(folder / name)] for name in _LMDBS]
    if keys[0] != keys[1]:
        raise ValueError(
            f"'{folder}' is damaged: its lq.lmdb and gt.lmdb do not hold the same keys in the same order. Delete it "
            "and give the command again."
        )
    return {"listed": listed, "written": len(keys[0])}


def _read_measured(folder: Path) -> tuple[dict[str, float], Counter[str]]:
    """Alignments and notes of all pairs of a split, those of earlier runs included."""
    stored = {entry.key for entry in read_meta(folder / _LMDBS[0])}
    # A killed run may have noted pairs that it did not store; they are noted again when they are.
    measured = {key: entry for key, entry in _read_journal(folder / _MEASURED, "key").items() if key in stored}
    alignments = {key: entry["alignment"] for key, entry in measured.items() if entry["alignment"] is not None}
    return alignments, Counter(note for entry in measured.values() for note in entry["notes"])


def _write_names(target: Path, data_set: DataSet) -> dict[str, str]:
    """Write the lists of subsets; returns where each comes from."""
    folder = target / "names"
    sources: dict[str, str] = {}
    if not (target / "train" / _LMDBS[0]).is_dir():
        return sources
    names = [entry.key for entry in read_meta(target / "train" / _LMDBS[0])]
    for size in SIZES:
        if len(names) < size:
            continue
        published = shipped(f"{data_set.lists}_{size}") if data_set.lists else None
        if published is not None and set(published) <= set(names):
            chosen, source = published, f"the package's list {data_set.lists}_{size}"
        else:
            chosen = subset(names, size)
            source = f"ranked here by the SHA-256 of '{SEED}:<name>'"
            if published is not None:
                absent = len(set(published) - set(names))
                source += f"; not the package's list, {absent} of whose names are not in this training set"
        folder.mkdir(exist_ok=True)
        _write_text(folder / f"train_{size}.txt", "".join(f"{name}\n" for name in chosen))
        sources[f"train_{size}"] = source
    return sources


# --- photographs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """Looks at a photograph."""

    root: str

    def __call__(self, relative: str) -> dict[str, Any]:
        try:
            return photographs.look_at(os.path.join(self.root, relative))._asdict()
        except (ValueError, OSError, cv2.error) as error:
            return {"problem": " ".join(str(error).split())}


def prepare_photographs(
    name: str, request: Request, out: str | os.PathLike[str], *, workers: int = 0
) -> dict[str, Any]:
    """Read every photograph of a folder and write which can be used: ``photographs.txt`` and ``set_aside.txt``.

    No image is copied. Arguments as in `prepare_pairs`; returns what ``prepared.json`` holds.
    """
    target = _out_folder(out)
    root, files, warnings = photographs.find_photographs(name, request)
    digest = hashlib.sha256("\n".join(files).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    record: dict[str, Any] = {
        "data_set": name,
        "complete": False,
        "settings": {"source": str(root.absolute()), "photographs": f"{len(files)}, {digest}"},
        "warnings": warnings,
        "versions": _versions(),
    }
    resumed = _begin(target, record)
    _show_photographs(root, files, warnings, resumed=resumed)
    with ExitStack() as stack:
        stack.enter_context(_locked(target))
        seen = _read_journal(target / _JOURNAL, "path")
        sizes = {path: _size(os.path.join(root, path)) for path in files}
        todo = [p for p in files if "height" not in seen.get(p, {}) or seen[p].get("bytes") != sizes[p]]
        journal = stack.enter_context(open(target / _JOURNAL, "a", encoding="utf-8"))
        for path, found in _map(_Look(str(root)), todo, workers, "photographs"):
            seen[path] = found = {**found, "bytes": sizes[path]}
            journal.write(json.dumps({"path": path, **found}) + "\n")
            journal.flush()
    usable = [path for path in files if "height" in seen[path]]
    aside = {path: seen[path]["problem"] for path in files if "problem" in seen[path]}
    if not usable:
        raise ValueError(f"not one of the {len(files)} photographs can be used: {_first(aside)}")
    _write_text(target / _PHOTOGRAPHS, "".join(f"{path}\n" for path in usable))
    _write_text(target / _SET_ASIDE, "".join(f"{path}\t{reason}\n" for path, reason in aside.items()))
    record |= {"complete": True, "counts": _photograph_counts(usable, seen), "set_aside": aside}
    _write_json(target / RECORD, record)
    _show_photograph_counts(record["counts"], aside)
    print(f"Lists: {target / _PHOTOGRAPHS} and {target / _SET_ASIDE}; no image was copied.")
    print(
        "In the option file of 'basicsr pseudo', which leaves unreadable photographs out by itself:\n"
        f"  photographs: {root}"
    )
    return record


def check_photographs(name: str, request: Request, *, workers: int = 0) -> None:
    """Read every photograph of a folder; writes nothing.

    Raises:
        ValueError: Some cannot be used; they were printed.
    """
    root, files, warnings = photographs.find_photographs(name, request)
    _show_photographs(root, files, warnings)
    seen = dict(_map(_Look(str(root)), files, workers, "check photographs"))
    aside = {path: found["problem"] for path, found in seen.items() if "problem" in found}
    _show_photograph_counts(_photograph_counts([path for path in files if path not in aside], seen), {})
    for line in _by_reason(aside, _SHOWN_BY_CHECK):
        print(f"  wrong: {line}")
    if aside:
        raise ValueError(f"{len(aside)} of the {len(files)} photographs cannot be used; they are listed above.")
    print("Nothing wrong was found." + (" See the warnings above." if warnings else ""))


def _photograph_counts(usable: Sequence[str], seen: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Figures of the photographs that can be used."""
    looks = [seen[path] for path in usable]
    return {
        "usable": len(looks),
        "grey": sum(look["grey"] for look in looks),
        "upright": sum(look["height"] > look["width"] for look in looks),
        f"short side under {photographs.LOW_SIDE}": sum(
            min(look["height"], look["width"]) < photographs.LOW_SIDE for look in looks
        ),
    }


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line to a journal."""
    with open(path, "a", encoding="utf-8") as journal:
        journal.write(json.dumps(entry) + "\n")


def _read_journal(path: Path, name: str) -> dict[str, dict[str, Any]]:
    """The last line of each name in a journal; an unfinished line, which a killed run leaves, is cut off."""
    seen: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return seen
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(path, len(data))
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            entry = json.loads(line)
            seen[entry.pop(name)] = entry
        except (ValueError, KeyError, TypeError, AttributeError):  # of a power cut; what it was about is done again
            continue
    return seen


def _show_photographs(root: Path, files: Sequence[str], warnings: Sequence[str], *, resumed: bool = False) -> None:
    print(f"{len(files)} photographs in '{root}'" + ("; going on with an earlier run" if resumed else ""))
    for warning in warnings:
        print(f"Warning: {warning}")


def _show_photograph_counts(counts: dict[str, int], aside: dict[str, str]) -> None:
    rest = ", ".join(f"{number} {what}" for what, number in counts.items() if what != "usable" and number)
    print(f"{counts['usable']} photographs can be used" + (f" (of these {rest})" if rest else "") + ".")
    if aside:
        print(f"{_number(len(aside), 'photograph')} set aside: {_first(aside)}")


# --- the record -----------------------------------------------------------------------------------------------------


def _out_folder(out: str | os.PathLike[str]) -> Path:
    """The folder to write, refused if it is a file."""
    target = Path(out).expanduser()
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"--out: '{target}' is a file; choose a folder.")
    return target


def _begin(target: Path, record: dict[str, Any]) -> bool:
    """Start the folder, or make sure that it was made with the same settings; returns whether it is gone on with."""
    path = target / RECORD
    advice = "Choose another --out, or delete it."
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            other = before["data_set"], before["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"'{path}' is damaged, so it is not clear what '{target}' holds. {advice}") from error
        # As JSON has it: tuples have become lists.
        settings = json.loads(json.dumps(record["settings"]))
        if other[0] != record["data_set"]:
            raise ValueError(f"'{target}' holds {other[0]}, not {record['data_set']}. {advice}")
        changed = sorted(k for k in {*settings, *other[1]} if settings.get(k) != other[1].get(k))
        if changed:
            details = "; ".join(f"{k}: {other[1].get(k)} then, {settings.get(k)} now" for k in changed)
            source = " or of another state of the source" if {*SPLITS, "photographs"} & set(changed) else ""
            raise ValueError(f"'{target}' was made with other settings{source} ({details}). {advice}")
        return True
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"--out: '{target}' holds files, but none of 'basicsr prepare' ({RECORD}). {advice}")
    target.mkdir(parents=True, exist_ok=True)
    _write_json(path, record)
    return False


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep a second command away from the folder."""
    from filelock import FileLock, Timeout

    lock = FileLock(target / ".lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout as error:
        raise ValueError(f"another 'basicsr prepare' is writing '{target}' just now. Wait for it to end.") from error


def _versions() -> dict[str, str]:
    versions = {"semiisp_plugin": __version__, "opencv": cv2.__version__}
    rawpy = sys.modules.get("rawpy")
    if rawpy is not None:
        versions |= {"rawpy": rawpy.__version__, "libraw": ".".join(str(n) for n in rawpy.libraw_version)}
    return versions


def _write_json(path: Path, value: object) -> None:
    _write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    # Names of files need not be text.
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


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


def _number(count: int, what: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _depth_text(depths: Counter[tuple[int, int]]) -> str:
    if not depths:
        return ""
    return " (" + ", ".join(f"{n}: {a}-bit inputs, {b}-bit targets" for (a, b), n in depths.most_common()) + ")"


def _show_listing(data_set: DataSet, listing: Listing, *, resumed: bool = False) -> None:
    print(data_set.name + ("; going on with an earlier run" if resumed else ""))
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


def _show_notes(split: str, tally: Tally) -> None:
    for note, number in tally.notes.most_common():
        print(f"Warning: {split}: {_number(number, 'time')}: {note}")
    if tally.alignment:
        key = min(tally.alignment, key=lambda k: tally.alignment[k])
        print(f"{split}: the least aligned pair is '{key}' with {tally.alignment[key]:.2f}")


def _show_result(target: Path, record: dict[str, Any]) -> None:
    for split, count in record["counts"].items():
        if count["listed"]:
            expected = f", {count['expected']} expected" if count["expected"] else ""
            print(f"{split}: {_number(count['written'], 'pair')} in {target / split}{expected}")
    for split, aside in record["set_aside"].items():
        if aside:
            print(f"{split}: {_number(len(aside), 'pair')} set aside ({RECORD} has all reasons): {_first(aside)}")
    for split, notes in record["notes"].items():
        for note, number in notes.items():
            print(f"Warning: {split}: {_number(number, 'time')}: {note}")
    for split, measured in record["alignment"].items():
        key, value = next(iter(measured["lowest"].items()))
        print(f"{split}: the least aligned pair is '{key}' with {value:.2f}")
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
            f"    name: {record['data_set']}_{split}",
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
