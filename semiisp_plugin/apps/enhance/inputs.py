"""What ``IMAGES...`` stands for: files, folders, patterns; and where each result goes."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from semiisp_plugin.apps.enhance.encoding import Bits, Format, format_of
from semiisp_plugin.data.layouts.base import list_files
from semiisp_plugin.io.image_io import IMAGE_EXTENSIONS, printable_path, scan_images
from semiisp_plugin.io.raw_io import RAW_EXTENSIONS, is_raw

__all__ = ["Found", "Job", "find_images", "plan_jobs"]

_JPEG_TOO = (".jfif", ".jpe")
_EXTENSION: dict[Format, str] = {"png": ".png", "jpg": ".jpg", "tiff": ".tif", "webp": ".webp"}


class Found(NamedTuple):
    """An image to enhance.

    Attributes:
        path: The file.
        relative: Where it lies below the folder that was given; its name, if it was given itself.
    """

    path: str
    relative: str


class Job(NamedTuple):
    """An image and where its result goes.

    Attributes:
        source: The image.
        target: The result.
        form: The result's format.
    """

    source: str
    target: Path
    form: Format


def find_images(images: Sequence[str], out: str | os.PathLike[str]) -> tuple[list[Found], list[str]]:
    """Find the images that are meant.

    Args:
        images: Files, folders (with all below them; hidden files are left out), and patterns with ``*``, ``?``, ``[]``
            and ``**``.
        out: The folder of results; what lies in it is not taken for an image, unless it was named itself.

    Returns:
        The images in the order of the arguments, each once; and remarks about what was not found.

    Raises:
        FileNotFoundError: There is no such file, or nothing fits a pattern.
        ValueError: There is no image at all.
    """
    found: list[Found] = []
    files: list[str] = []
    remarks: list[str] = []
    arguments = list(_expanded(images))
    folders = [path for path, _ in arguments if os.path.isdir(path)]
    for path, relative in arguments:
        if os.path.isdir(path):
            # One folder is copied with its structure; several keep their names, so that they do not mix.
            prefix = "" if len(arguments) == 1 else f"{relative or os.path.basename(os.path.abspath(path))}/"
            inside = list(_in_folder(path, out))
            if not inside:
                remarks.append(_no_image(path))
            found += [Found(os.path.join(path, name), prefix + name) for name in inside]
        elif relative is not None:
            found.append(Found(path, relative))
        else:
            files.append(path)
            found.append(Found(path, os.path.basename(path)))
    if len({os.path.basename(path) for path in files}) < len(files):
        below = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in files])
        named = set(files)
        found = [
            Found(f.path, Path(os.path.relpath(os.path.abspath(f.path), below)).as_posix()) if f.path in named else f
            for f in found
        ]
    once = list({os.path.realpath(f.path): f for f in reversed(found)}.values())[::-1]
    if not once:
        raise ValueError(remarks[0] if len(folders) == 1 else f"none of the {len(folders)} folders holds an image.")
    return once, remarks


def _expanded(images: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Files and folders; of what fits a pattern with its path below the part that is none."""
    for argument in images:
        path = os.path.expanduser(argument)
        if os.path.lexists(path):
            yield path, None
            continue
        if not glob.has_magic(path):
            near = _nearby(path)
            raise FileNotFoundError(f"There is no file or folder '{printable_path(argument)}'{near}. Check the path.")
        # Patterns with ** find a folder and then what is in it.
        matches = sorted(match for match in glob.glob(path, recursive=True) if match.rstrip(os.sep))
        if "**" in path:
            matches = [m for m in matches if not os.path.isdir(m) and _is_image_name(m)]
        if not matches:
            raise FileNotFoundError(
                f"Nothing fits the pattern '{printable_path(argument)}' (from {os.getcwd()}). Check the path."
            )
        root = path
        while glob.has_magic(root):
            root = os.path.dirname(root)
        for match in matches:
            yield match, Path(os.path.relpath(match, root or os.curdir)).as_posix()


def _nearby(path: str) -> str:
    folder = os.path.dirname(path) or os.curdir
    if not os.path.isdir(folder):
        return f" (there is no folder '{printable_path(folder)}' either)"
    return f" (from {os.getcwd()})" if not os.path.isabs(path) else ""


def _is_image_name(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in (*IMAGE_EXTENSIONS, *RAW_EXTENSIONS)


def _in_folder(folder: str, out: str | os.PathLike[str]) -> Iterator[str]:
    """Images below a folder; results of earlier runs, where the folder of results lies in it, are none."""
    results = os.path.realpath(out)
    if results == os.path.realpath(folder):  # with a suffix; `plan_jobs` sees to it
        results = ""
    for name in list_files(Path(folder), (*IMAGE_EXTENSIONS, *RAW_EXTENSIONS)):
        real = os.path.realpath(os.path.dirname(os.path.join(folder, name)))
        if not results or not (real == results or real.startswith(results + os.sep)):
            yield name


def _no_image(folder: str) -> str:
    others = scan_images(folder).unsupported
    text = ", ".join(f"{count} {extension}" for extension, count in others.items() if extension not in RAW_EXTENSIONS)
    return (
        f"'{printable_path(folder)}' holds no image, neither itself nor below"
        + (f", but pictures of other formats ({text}), which must be converted first" if text else "")
        + ". Check the path."
    )


def plan_jobs(
    found: Sequence[Found],
    out: str | os.PathLike[str],
    *,
    form: Format | None = None,
    bits: Bits = "keep",
    suffix: str = "",
) -> list[Job]:
    """Where each result goes: the image's place below ``out``, with the suffix before the extension.

    Without ``form`` the format is that of the image's name; PNG for RAW files, and for formats that are not written.
    Where two results would have one name (a camera's RAW file and its JPEG), both keep their images' extensions in
    theirs: ``a.dng.png``, ``a.jpg.png``.

    Args:
        found: The images.
        out: Folder of the results.
        form: Format of all results.
        bits: With 16, what would be JPEG or WebP becomes PNG.
        suffix: Added to the names.

    Raises:
        ValueError: A result would take the place of an image, or of another result.
    """
    if any(c in suffix for c in "/\\\0"):
        raise ValueError(f"--suffix: '{suffix}' cannot be part of a file's name; leave slashes out.")
    forms = [form or _own_form(f.path, bits) for f in found]
    targets = [_target(out, f.relative, kind, suffix, keep=form is None) for f, kind in zip(found, forms, strict=True)]
    often = Counter(str(target).casefold() for target in targets)
    for i, (f, kind) in enumerate(zip(found, forms, strict=True)):
        if often[str(targets[i]).casefold()] > 1:
            targets[i] = _target(out, f.relative, kind, suffix, keep=False, both=True)
    jobs = [Job(f.path, target, kind) for f, target, kind in zip(found, targets, forms, strict=True)]
    return _without_clashes(jobs)


def _own_form(path: str, bits: Bits) -> Format:
    extension = os.path.splitext(path)[1].lower()
    own = "jpg" if extension in _JPEG_TOO else format_of(extension)
    if own is None or is_raw(path) or (bits == "16" and own in ("jpg", "webp")):
        return "png"
    return own


def _target(
    out: str | os.PathLike[str], relative: str, form: Format, suffix: str, *, keep: bool, both: bool = False
) -> Path:
    stem, extension = os.path.splitext(relative)
    if extension.lower() not in (*IMAGE_EXTENSIONS, *RAW_EXTENSIONS, *_JPEG_TOO, ".gif"):
        stem, extension = relative, ""  # a name with a point in it
    if both:
        stem += extension
    same = keep and not both and format_of(extension) == form
    return Path(out, f"{stem}{suffix}{extension if same else _EXTENSION[form]}")


def _without_clashes(jobs: list[Job]) -> list[Job]:
    """The jobs, without images that are results of others among them."""
    results = {os.path.realpath(job.target) for job in jobs}
    for job in jobs:
        if os.path.realpath(job.target) == os.path.realpath(job.source):
            raise ValueError(
                f"'{printable_path(job.source)}' would be overwritten by its result. Choose another --out, or add "
                "--suffix _enhanced."
            )
    # In one folder with the images, an earlier run's results are images to this one's listing.
    left = [job for job in jobs if os.path.realpath(job.source) not in results]
    if len(left) < len(jobs) and not left:
        raise ValueError("every image would be overwritten by the result of another. Choose another --out.")
    seen: dict[str, str] = {}
    for job in left:
        key = str(job.target).casefold()
        if key in seen:
            raise ValueError(
                f"'{printable_path(seen[key])}' and '{printable_path(job.source)}' would both be written to "
                f"'{printable_path(job.target)}'. Give the folder above them, or enhance them one after the other."
            )
        seen[key] = job.source
    return left
