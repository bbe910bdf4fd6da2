"""Many images: read ahead, enhanced one by one, written behind; what cannot be read is set aside."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import cv2
from tqdm import tqdm

from semiisp_plugin.apps.enhance.encoding import Format, encode_picture
from semiisp_plugin.apps.enhance.enhancer import Enhancer, NetworkError
from semiisp_plugin.apps.enhance.inputs import Job, find_images, plan_jobs
from semiisp_plugin.io.files import write_atomically
from semiisp_plugin.io.image_io import MAX_PIXELS, BitDepth, printable_path
from semiisp_plugin.io.picture import Picture, read_picture
from semiisp_plugin.io.raw_io import is_raw, require_rawpy

__all__ = ["EnhanceReport", "enhance_files", "enhance_jobs"]

_AHEAD = 2  # images that are read, and results that wait to be written, besides the one in the network
_EXPECTED = (ValueError, OSError, MemoryError, cv2.error)
# Whatever the image, the next one would fail too.
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


@dataclass
class EnhanceReport:
    """What came of the images.

    Attributes:
        written: Results that were written.
        kept: Results that were there already.
        set_aside: Image -> why there is no result.
        notes: Image -> what could not be kept of it.
        remarks: About what was asked for.
        pixels: Of the results that were written.
        seconds: From the first image to the last.
    """

    written: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    pixels: int = 0
    seconds: float = 0.0


def enhance_files(
    enhancer: Enhancer,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    form: Format | None = None,
    bits: BitDepth = "keep",
    quality: int = 95,
    suffix: str = "",
    overwrite: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    workers: int = 2,
    progress: bool = False,
) -> EnhanceReport:
    """Enhance files, folders and patterns into a folder.

    Args:
        enhancer: The enhancer.
        images: See `semiisp_plugin.apps.enhance.inputs.find_images`.
        out: Folder of the results; made if need be.
        form: ``png``, ``jpg``, ``tiff`` or ``webp``; None for each image's own.
        bits: ``keep``, ``8`` or ``16``. RAW files have 16.
        quality: Of JPEG and WebP, 1 to 100.
        suffix: Added to the names of the results, before the extension.
        overwrite: Make results anew that are there already; images are never overwritten.
        max_pixels: Larger images are set aside; None: no limit but the decoders'.
        workers: Threads that read.
        progress: Show a progress bar.

    Raises:
        ValueError: An argument is not usable, there is no image, or results would clash.
        FileNotFoundError: What was asked for is not there.
        ImportError: There are RAW files, and rawpy is not installed.
        NetworkError: The network gives no image of the size of its input.
        OSError: Results cannot be written at all: the disk is full, the folder cannot be written.
    """
    named = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    jobs, remarks = jobs_for([os.fspath(image) for image in named], out, form, bits, quality, suffix)
    report = EnhanceReport(remarks=remarks)
    enhance_jobs(
        enhancer,
        jobs,
        report,
        bits=bits,
        quality=quality,
        overwrite=overwrite,
        max_pixels=max_pixels,
        workers=workers,
        progress=progress,
    )
    return report


def jobs_for(
    images: Sequence[str],
    out: str | os.PathLike[str],
    form: Format | None,
    bits: BitDepth,
    quality: int,
    suffix: str,
) -> tuple[list[Job], list[str]]:
    """What is to be done, and remarks about what was asked for; arguments and errors are those of `enhance_files`."""
    if not 1 <= quality <= 100:
        raise ValueError(f"--quality: {quality} cannot be; give 1 to 100.")
    if form in ("jpg", "webp") and bits == "16":
        raise ValueError(f"--bits 16: {form} holds 8 bits; take --format png or tiff.")
    if os.path.lexists(out) and not os.path.isdir(out):
        raise NotADirectoryError(f"--out: '{out}' is a file; give a folder.")
    found, remarks = find_images(images, out)
    jobs = plan_jobs(found, out, form=form, bits=bits, suffix=suffix)
    if any(is_raw(job.source) for job in jobs):
        require_rawpy()
    return jobs, remarks


def enhance_jobs(
    enhancer: Enhancer,
    jobs: Sequence[Job],
    report: EnhanceReport,
    *,
    bits: BitDepth = "keep",
    quality: int = 95,
    overwrite: bool = False,
    max_pixels: int | None = MAX_PIXELS,
    workers: int = 2,
    progress: bool = False,
) -> None:
    """Enhance images whose results' places are settled; see `enhance_files`. Adds to ``report``."""
    begun = time.monotonic()
    todo = [job for job in jobs if overwrite or not os.path.lexists(job.target)]
    report.kept += [str(job.target) for job in jobs if not overwrite and os.path.lexists(job.target)]
    reads: deque[Future[Picture]] = deque()
    writes: deque[tuple[Job, int, Future[list[str]]]] = deque()
    waiting = iter(todo)
    with (
        tqdm(total=len(todo), unit="image", disable=not progress, file=sys.stderr) as bar,
        ThreadPoolExecutor(max(1, workers), "read") as readers,
        ThreadPoolExecutor(1, "write") as writer,
    ):

        def read_ahead() -> None:
            for job in waiting:
                reads.append(readers.submit(read_picture, job.source, max_pixels=max_pixels))
                if len(reads) > _AHEAD:
                    return

        def finish_oldest() -> None:
            job, pixels, future = writes.popleft()
            _settle(job, pixels, future, report)
            bar.update()

        try:
            read_ahead()
            for job in todo:
                bar.set_postfix_str(printable_path(os.path.basename(job.source)))
                future = reads.popleft()
                read_ahead()
                try:
                    picture = future.result()
                    result = _enhanced(enhancer, picture, bar)
                except NetworkError:
                    raise
                except (*_EXPECTED, RuntimeError) as error:  # torch's, for sizes and memory
                    report.set_aside[job.source] = _reason(error, job)
                    bar.update()
                    continue
                pixels = result.pixels.shape[0] * result.pixels.shape[1]
                writes.append((job, pixels, writer.submit(_write, job, result, bits, quality)))
                del picture, result, future
                while len(writes) > _AHEAD:
                    finish_oldest()
            while writes:
                finish_oldest()
        except BaseException:
            for reading in reads:
                reading.cancel()
            for _, _, writing in writes:
                writing.cancel()
            raise
        finally:
            report.seconds += time.monotonic() - begun


def _enhanced(enhancer: Enhancer, picture: Picture, bar: tqdm) -> Picture:
    def show(done: int, count: int) -> None:
        if count > 1:
            bar.set_postfix_str(f"tile {done} of {count}")

    return picture._replace(pixels=enhancer.enhance_image(picture.pixels, show))


def _write(job: Job, result: Picture, bits: BitDepth, quality: int) -> list[str]:
    data, notes = encode_picture(result, job.form, bits=bits, quality=quality)
    write_atomically(job.target, data)
    return [*result.notes, *notes]


def _settle(job: Job, pixels: int, future: Future[list[str]], report: EnhanceReport) -> None:
    """Book a result that was to be written.

    Raises:
        OSError: The next one could not be written either.
    """
    try:
        notes = future.result()
    except OSError as error:
        if error.errno in _HOPELESS:
            raise OSError(
                error.errno,
                f"{error.strerror or error}. {len(report.written)} results were written and are whole; make room or "
                "mend the folder, and give the same command again to go on",
            ) from error
        report.set_aside[job.source] = _reason(error, job)
    except _EXPECTED as error:
        report.set_aside[job.source] = _reason(error, job)
    else:
        report.written.append(str(job.target))
        report.pixels += pixels
        if notes:
            report.notes[job.source] = notes


def _reason(error: BaseException, job: Job) -> str:
    """The message in one line, without the image's name in front, which the report has already."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = text if str(error) else "there is not enough memory for it; shrink it, or give --tile 512"
    return text.removeprefix(f"{printable_path(job.source)}: ")
