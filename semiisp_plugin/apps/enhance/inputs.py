"""What ``IMAGES...`` stands for: files and folders; and where each result goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from semiisp_plugin.apps.enhance.encoding import EXTENSIONS, Format
from semiisp_plugin.io.image_io import IMAGE_EXTENSIONS, BitDepth, printable_path, scan_images
from semiisp_plugin.io.raw_io import RAW_EXTENSIONS, is_raw

_EXTENSION: dict[Format, str] = {"png": ".png", "jpg": ".jpg", "tiff": ".tif", "webp": ".webp"}
_FOUND = (*IMAGE_EXTENSIONS, *RAW_EXTENSIONS)


class Found(NamedTuple):
    """An image to enhance.

    Attributes:
        path: The file.
        relative: Where it lies below the folder that was given; its name, if it was given itself.
    """

    path: str
    relative: str


class FoundImages(NamedTuple):
    """What `find_images` found.

    Attributes:
        images: In the order of the arguments, each once.
        remarks: About what is not read.
    """

    images: list[Found]
    remarks: list[str]


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


def find_images(images: Sequence[str], out: str | os.PathLike[str]) -> FoundImages:
    """Find the images that are meant.

    Args:
        images: Files, and folders (with all below them; hidden files are left out).
        out: The folder of results; what lies in it is not taken for an image, unless it was named itself.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no image at all.
    """
    arguments = [os.path.expanduser(image) for image in images]
    for path in arguments:
        if not os.path.lexists(path):
            raise FileNotFoundError(f"There is no file or folder '{printable_path(path)}' (from {os.getcwd()}).")
    named = [path for path in arguments if not os.path.isdir(path)]
    # Files of one name keep as much of their paths as lies below a folder that they share.
    alike = len({os.path.basename(path) for path in named}) < len(named)
    shared = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in named]) if alike else None
    found: dict[str, Found] = {}
    remarks: list[str] = []
    for path in arguments:
        if os.path.isdir(path):
            # One folder is copied with its structure; several keep their names, so that they do not mix.
            prefix = "" if len(arguments) == 1 else f"{os.path.basename(os.path.abspath(path))}/"
            names, remark = _in_folder(path, out)
            inside = [Found(os.path.join(path, name), prefix + name) for name in names]
            remarks += [remark] if remark else []
        elif shared is not None:
            inside = [Found(path, Path(os.path.relpath(os.path.abspath(path), shared)).as_posix())]
        else:
            inside = [Found(path, os.path.basename(path))]
        for image in inside:
            found.setdefault(os.path.realpath(image.path), image)
    if not found:
        raise ValueError(f"{' '.join(remarks)} Check the path.")
    return FoundImages(list(found.values()), remarks)


def _in_folder(folder: str, out: str | os.PathLike[str]) -> tuple[list[str], str | None]:
    """Images below a folder, and a remark if there are none, or pictures of formats that are not read.

    Results of earlier runs, where the folder of results lies in it, are none.
    """
    listing = scan_images(folder, _FOUND)
    images = listing.images
    results = os.path.realpath(out)
    # With a suffix results may lie beside the images; `plan_jobs` sees to it.
    if results != os.path.realpath(folder):
        places = {name: os.path.realpath(os.path.dirname(os.path.join(folder, name))) for name in images}
        images = [name for name, place in places.items() if not f"{place}{os.sep}".startswith(results + os.sep)]
    if not images:
        also = (
            f", but files of other formats ({listing.remark}), which must be converted first" if listing.remark else ""
        )
        return images, f"'{printable_path(folder)}' holds no image, neither itself nor below{also}."
    left_out = (
        f"not read in '{printable_path(folder)}', for their format: {listing.remark}; convert them to PNG or JPEG."
    )
    return images, left_out if listing.remark else None


def plan_jobs(
    found: Sequence[Found],
    out: str | os.PathLike[str],
    *,
    form: Format | None = None,
    raw_form: Format = "png",
    bits: BitDepth = "keep",
    suffix: str = "",
) -> tuple[list[Job], dict[str, str]]:
    """Where each result goes: the image's place below ``out``, with the suffix before the extension.

    Without ``form`` the format is that of the image's name; ``raw_form`` for RAW files; PNG for formats that are not
    written.
    Where two results would have one name (a camera's RAW file and its JPEG), both keep their images' extensions in
    theirs: ``a.dng.png``, ``a.jpg.png``.

    Args:
        found: The images.
        out: Folder of the results.
        form: Format of all results.
        raw_form: Of those of RAW files where ``form`` is None.
        bits: With 16, what would be JPEG or WebP becomes PNG.
        suffix: Added to the names.

    Returns:
        The jobs; and the images that are skipped, because their results would have others' names on a file system that
        does not tell a from A, with the reason.

    Raises:
        ValueError: A result would take the place of an image.
    """
    if any(c in suffix for c in "/\\\0"):
        raise ValueError(f"--suffix: '{suffix}' cannot be part of a file's name; leave slashes out.")
    forms = [form or (raw_form if is_raw(image.path) else None) for image in found]
    jobs = [_job(image, out, its, bits, suffix) for image, its in zip(found, forms, strict=True)]
    often = Counter(str(job.target).casefold() for job in jobs)
    jobs = [
        _job(image, out, its, bits, suffix, whole=True) if often[str(job.target).casefold()] > 1 else job
        for image, its, job in zip(found, forms, jobs, strict=True)
    ]
    results = {os.path.realpath(job.target) for job in jobs}
    seen: dict[str, str] = {}
    clashes: dict[str, str] = {}
    left = []
    for job in jobs:
        source, target = os.path.realpath(job.source), os.path.realpath(job.target)
        if source == target:
            raise ValueError(
                f"'{printable_path(job.source)}' would be overwritten by its result. Choose another --out, or add "
                "--suffix _enhanced."
            )
        # In one folder with the images, an earlier run's results are images to this one's listing.
        if source in results:
            continue
        other = seen.setdefault(str(job.target).casefold(), job.source)
        if other == job.source:
            left.append(job)
        else:
            clashes[job.source] = f"its result would have the name of that of '{printable_path(other)}'; rename one"
    return left, clashes


def _job(
    image: Found,
    out: str | os.PathLike[str],
    form: Format | None,
    bits: BitDepth,
    suffix: str,
    *,
    whole: bool = False,
) -> Job:
    """The job of one image; ``whole``: the result's name has the whole of the image's."""
    stem, extension = os.path.splitext(image.relative)
    own = EXTENSIONS.get(extension.lower())
    if extension.lower() not in (*_FOUND, *EXTENSIONS):
        stem, extension = image.relative, ""  # a name with a point in it
    if form is None and own is not None and not (bits == "16" and own in ("jpg", "webp")):
        form, ending = own, extension
    else:
        form = form or "png"
        ending = _EXTENSION[form]
    name = f"{stem}{extension}{suffix}{_EXTENSION[form]}" if whole else f"{stem}{suffix}{ending}"
    return Job(image.path, Path(out, name), form)
