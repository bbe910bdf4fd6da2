"""``basicsr serve``: a page on this machine that enhances photographs one by one, before and after side by side.

Nothing leaves the machine and nothing stays: the page is served to 127.0.0.1 alone, fetches nothing from elsewhere, and
a photograph is deleted as soon as it is read; what is made of it, when the next one comes, an hour later, when the
browser's tab is closed, or when the command ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from semiisp_plugin.apps.enhance.batch import check_blend
from semiisp_plugin.apps.enhance.command import choose_device_from, load_from
from semiisp_plugin.apps.enhance.encoding import encode_picture
from semiisp_plugin.apps.enhance.enhancer import MAX_STRENGTH, Enhancer, blended
from semiisp_plugin.apps.enhance.network import Inputs, describe
from semiisp_plugin.io.folder_job import UNUSABLE, reason_of
from semiisp_plugin.io.image_io import to_bit_depth, to_tensor
from semiisp_plugin.io.picture import read_picture, shrink_short_side
from semiisp_plugin.io.raw_io import is_raw
from semiisp_plugin.io.signals import STOP_SIGNALS, is_heeded

_MAX_UPLOAD = "500mb"  # a medium-format RAW file has 250, 16 bits of 80 megapixels without compression 480
_PREVIEW_SIDE = 1600  # of the short side, in pixels
_LIFE = 3600  # seconds that what was made of a photograph is kept


class Opened:
    """A photograph and what the network makes of it, in full size.

    Args:
        enhancer: The enhancer.
        path: The photograph; RAW files too.
        inputs: See `semiisp_plugin.apps.enhance.network.LoadedNetwork`.
        max_pixels: See `read_picture`.

    Raises:
        ValueError, OSError: See `read_picture` and `Enhancer.enhance_image`.
    """

    def __init__(self, enhancer: Enhancer, path: Path, inputs: Inputs | None, max_pixels: int | None) -> None:
        self.picture = read_picture(path, max_pixels=max_pixels, raw_to_srgb=inputs == "srgb")
        self.inputs = inputs
        self.name = path.name
        self._result: Tensor = enhancer.enhance_tensor(to_tensor(self.picture.pixels)[None])[0]
        self._folder = tempfile.TemporaryDirectory(prefix="result_", dir=path.parent)  # goes with this object

    def pixels(self, strength: float) -> np.ndarray:
        """The result, as `Enhancer.enhance_image` gives it."""
        check_blend(strength, self.inputs, [self.name] if is_raw(self.name) else [])
        pixels = self.picture.pixels
        return blended(to_tensor(pixels), self._result.clone(), strength, pixels.dtype)

    def preview(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """The photograph and the result, 8 bits, reduced."""
        before, after = (
            to_bit_depth(shrink_short_side(pixels, _PREVIEW_SIDE), "8")
            for pixels in (self.picture.pixels, self.pixels(strength))
        )
        return before, after

    def write(self, strength: float, form: Literal["jpg", "png"]) -> tuple[str, list[str]]:
        """Write the result in full size, with EXIF; returns the file and what could not be kept."""
        data, notes = encode_picture(self.picture._replace(pixels=self.pixels(strength)), form)
        path = Path(self._folder.name, f"{Path(self.name).stem}_enhanced.{form}")
        path.write_bytes(data)
        return str(path), [*self.picture.notes, *notes]


def _page(enhancer: Enhancer, inputs: Inputs | None, max_pixels: int | None, folder: Path, about: str) -> Any:
    """Gradio's ``Blocks``; nothing outside ``folder``, where it puts what it is given, is read or deleted."""
    import gradio as gr

    @contextmanager
    def said(name: str = "") -> Iterator[None]:
        try:
            yield
        except UNUSABLE as error:
            raise gr.Error(reason_of(error, name), duration=None, print_exception=False) from error

    def open_photograph(given: str | None, strength: float) -> tuple[Any, Any, None]:
        if given is None:
            return None, None, None
        path = Path(given).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise gr.Error("This is no file that was given to the page.", print_exception=False)
        try:
            with said(str(path)):
                opened = Opened(enhancer, path, inputs, max_pixels)
                return opened, opened.preview(strength), None
        finally:
            path.unlink(missing_ok=True)

    def show(opened: Opened | None, strength: float) -> tuple[Any, None]:
        with said():
            return (None if opened is None else opened.preview(strength)), None

    def write(opened: Opened | None, strength: float, form: str) -> str:
        if opened is None:
            raise gr.Error("Give a photograph first; an hour after it was given it is deleted.", print_exception=False)
        with said():
            path, notes = opened.write(strength, "jpg" if form == "JPEG" else "png")
        for note in notes:
            gr.Info(note)
        return path

    with gr.Blocks(title="basicsr serve", analytics_enabled=False, delete_cache=(60, _LIFE)) as page:
        gr.Markdown(f"### Enhance a photograph\n`{about}`")
        state = gr.State(time_to_live=_LIFE)
        with gr.Row():
            with gr.Column(scale=1):
                what = "RAW file" if inputs == "raw" else "Photograph (JPEG, PNG, TIFF, HEIC, RAW ...)"
                given = gr.File(label=what, type="filepath")
                # Linear RAW is no picture that could be blended with.
                strength = gr.Slider(
                    0, MAX_STRENGTH, 1, step=0.05, label="Strength", visible=inputs != "raw", elem_id="strength"
                )
                form = gr.Radio(["JPEG", "PNG"], value="JPEG", label="Format")
                button = gr.Button("Make the full-size file", variant="primary")
                result = gr.File(label="Full size", interactive=False, elem_id="result")
            slider = gr.ImageSlider(
                label="Before and after", format="png", interactive=False, max_height=900, scale=3, elem_id="compare",
                buttons=["fullscreen"],
            )  # fmt: skip
        hidden: dict[str, Any] = {"api_visibility": "private"}
        opening = given.change(open_photograph, [given, strength], [state, slider, result], **hidden)
        opening.failure(lambda: (None, None, None), outputs=[state, slider, result], **hidden)  # not the one before
        strength.input(show, [state, strength], [slider, result], trigger_mode="always_last", **hidden)
        button.click(write, [state, strength, form], result, **hidden)
    return page


@contextmanager
def served(
    enhancer: Enhancer, inputs: Inputs | None, max_pixels: int | None, port: int | None = None, about: str = ""
) -> Iterator[str]:
    """Serve the page to this machine; yields its address. All files are deleted at the end.

    Args:
        enhancer: The enhancer.
        inputs: See `semiisp_plugin.apps.enhance.network.LoadedNetwork`.
        max_pixels: Larger photographs are refused.
        port: None: the first free one from 7860 on.
        about: A line about the network.

    Raises:
        ImportError: Gradio is not installed.
        OSError: The port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = os.environ["GRADIO_RUN_HISTORY"] = "False"
    with tempfile.TemporaryDirectory(prefix="basicsr_serve_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio as gr
        except ImportError as error:
            how = "In a clone of the plugin: pip install -e '.[serve]'"
            raise ImportError(f"The page is made with Gradio, which is not installed. {how}") from error
        page = _page(enhancer, inputs, max_pixels, Path(folder), about)
        theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none to be fetched
        try:
            _, address, _ = page.launch(
                server_name="127.0.0.1", server_port=port, share=False, max_file_size=_MAX_UPLOAD, theme=theme,
                footer_links=[], quiet=True, prevent_thread_lock=True,
            )  # fmt: skip
        except OSError as error:
            taken = f"--port {port} is taken" if port else "no port from 7860 on is free"
            raise OSError(f"{taken}; give another with --port.") from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def run_from_arguments(args: argparse.Namespace) -> None:
    """Run ``basicsr serve`` until it is told to stop; see `semiisp_plugin.arguments`.

    Raises:
        ValueError, OSError, ImportError: See `served` and `semiisp_plugin.apps.enhance.network.load_network`.
    """
    stop = threading.Event()
    for number in filter(is_heeded, STOP_SIGNALS):
        signal.signal(number, lambda *_: stop.set())
    loaded = load_from(args)
    about = describe(loaded)
    enhancer = Enhancer(loaded.network, device=choose_device_from(args), denoise=loaded.denoise)
    with served(enhancer, loaded.inputs, args.max_pixels, args.port, about) as address:
        print(about)
        print(f"Open {address} in a browser on this machine. Ctrl+C ends it and deletes what was given.", flush=True)
        stop.wait()
