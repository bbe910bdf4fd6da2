"""Many images: read ahead, enhanced one by one, written behind; what cannot be read is skipped."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from semiisp_plugin.apps.enhance.encoding import Format, encode_picture
from semiisp_plugin.apps.enhance.enhancer import Enhancer, NetworkError, check_strength
from semiisp_plugin.apps.enhance.inputs import FoundImages, Job, find_images, plan_jobs
from semiisp_plugin.apps.enhance.network import Inputs
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.folder_job import UNUSABLE, FolderJob, lacks_memory, mapped, progress_bar, reason_of
from semiisp_plugin.io.image_io import MAX_PIXELS, BitDepth, printable_path
from semiisp_plugin.io.picture import Picture, read_picture
from semiisp_plugin.io.raw_io import is_raw, require_rawpy

_AHEAD = 2  # images that are read, and results that wait to be written, besides the one in the network
# Whatever the image, the next one would fail too.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


@dataclass
class EnhanceReport:
    """What came of the images.

    Attributes:
        written: Results that were written.
        kept: Results that were there already.
        skipped: Image -> why there is no result.
        notes: Image -> what could not be kept of it.
        remarks: About what was asked for.
        pixels: Of the results that were written.
        seconds: From the first image to the last.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    pixels: int = 0
    seconds: float = 0.0


def enhance_files(
    enhancer: Enhancer,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | FoundImages,
    out: str | os.PathLike[str],
    *,
    inputs: Inputs | None = None,
    strength: float = 1.0,
    form: Format | None = None,
    bits: BitDepth = "keep",
    quality: int = 95,
    suffix: str = "",
    overwrite: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    workers: int = 2,
    progress: bool = False,
) -> EnhanceReport:
    """Enhance files and folders into a folder.

    Args:
        enhancer: The enhancer.
        images: Files and folders, or what `semiisp_plugin.apps.enhance.inputs.find_images` has found there.
        out: Folder of the results; made if need be.
        inputs: What the network was trained on (`semiisp_plugin.apps.enhance.network.LoadedNetwork.inputs`). For
            ``srgb`` RAW files are developed to sRGB; for ``raw``, and None, they are linear.
        strength: See `Enhancer.enhance_image`; 1 for networks that make pictures of RAW.
        form: ``png``, ``jpg``, ``tiff`` or ``webp``; None for each image's own, and for RAW files ``jpg`` where they
            are developed to sRGB, else ``png``.
        bits: ``keep``, ``8`` or ``16``. RAW files have 16.
        quality: Of JPEG and WebP, 1 to 100.
        suffix: Added to the names of the results, before the extension.
        overwrite: Make results again that are there already; images are never overwritten.
        max_pixels: Larger images are skipped; None: no limit but the decoders'.
        workers: Threads that read.
        progress: Show a progress bar.

    Raises:
        ValueError: An argument is not usable, there is no image, or results would clash.
        FileNotFoundError: What was asked for is not there.
        ImportError: There are RAW files, and rawpy is not installed.
        NetworkError: The network gives no image of the size of its input.
        OSError: Results cannot be written at all: the disk is full, the folder cannot be written.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"--quality: {quality} cannot be; give 1 to 100.")
    if form in ("jpg", "webp") and bits == "16":
        raise ValueError(f"--bits 16: {form} holds 8 bits; take --format png or tiff.")
    check_strength(strength)
    if os.path.lexists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"--out: '{out}' is a file; give a folder.")
    if not isinstance(images, FoundImages):
        named = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        images = find_images([os.fspath(image) for image in named], out)
    found, remarks = images
    to_srgb = inputs == "srgb"
    raw_form: Format = "jpg" if to_srgb and bits != "16" else "png"
    jobs, clashes = plan_jobs(found, out, form=form, raw_form=raw_form, bits=bits, suffix=suffix)
    raw = [job.source for job in jobs if is_raw(job.source)]
    check_blend(strength, inputs, raw)
    if raw:
        require_rawpy()
    report = EnhanceReport(remarks=remarks, skipped=clashes)
    begun = time.monotonic()
    todo = [job for job in jobs if overwrite or not os.path.lexists(job.target)]
    report.kept += [str(job.target) for job in jobs if not overwrite and os.path.lexists(job.target)]
    folder = FolderJob(out, "basicsr enhance", option="--out")

    def read(job: Job) -> tuple[Job, Picture | Exception]:
        try:
            return job, read_picture(job.source, max_pixels=max_pixels, raw_to_srgb=to_srgb)
        except UNUSABLE as error:
            return job, error

    def enhanced() -> Iterator[tuple[Job, Picture]]:
        for job, picture in mapped(read, todo, max(1, workers), ahead=_AHEAD):
            bar.set_postfix_str(printable_path(os.path.basename(job.source)))
            try:
                if isinstance(picture, Exception):
                    raise picture
                pixels = enhancer.enhance_image(picture.pixels, show_tile, strength=strength)
                yield job, picture._replace(pixels=pixels)
            except NetworkError:
                raise
            except UNUSABLE as error:
                skip(job, error)

    def show_tile(done: int, count: int) -> None:
        if count > 1:
            bar.set_postfix_str(f"tile {done} of {count}")

    def write(result: tuple[Job, Picture]) -> tuple[Job, int, list[str] | Exception]:
        job, picture = result
        pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        try:
            data, notes = encode_picture(picture, job.form, bits=bits, quality=quality)
            write_atomically(job.target, data)
        except UNUSABLE as error:
            return job, pixels, error
        return job, pixels, [*picture.notes, *notes]

    def skip(job: Job, error: Exception) -> None:
        hint = ", or give --tile 512" if lacks_memory(error) else ""
        report.skipped[job.source] = reason_of(error, job.source) + hint
        bar.update()

    try:
        with folder.locked(), progress_bar(len(todo), "enhance", "image", shown=progress) as bar:
            for job, pixels, outcome in mapped(write, enhanced(), 1, ahead=_AHEAD):
                if isinstance(outcome, OSError) and outcome.errno in _HOPELESS:
                    raise OSError(
                        outcome.errno,
                        f"{outcome.strerror or outcome}. {len(report.written)} results were written and are whole; "
                        f"make room or fix the folder, and give the same command again to resume",
                    ) from outcome
                if isinstance(outcome, Exception):
                    skip(job, outcome)
                    continue
                report.written.append(str(job.target))
                report.pixels += pixels
                if outcome:
                    report.notes[job.source] = outcome
                bar.update()
            folder.write_skipped(report.skipped)
    finally:
        report.seconds += time.monotonic() - begun
    return report


def check_blend(strength: float, inputs: Inputs | None, raw: Sequence[str]) -> None:
    """Raise a ValueError if images cannot be blended with what a network makes of them.

    Args:
        strength: See `Enhancer.enhance_image`; 1 is no blend.
        inputs: What the network takes.
        raw: Which of the images are RAW files.
    """
    if strength != 1 and (inputs == "raw" or (raw and inputs != "srgb")):
        what = "this network was trained on RAW" if inputs == "raw" else f"'{printable_path(raw[0])}' is linear RAW"
        raise ValueError(
            f"--strength {strength:g}: it blends a picture with what the network makes of it, and {what}, which is no "
            f"picture yet. Leave it out; for a network that was trained on sRGB give --inputs srgb."
        )
