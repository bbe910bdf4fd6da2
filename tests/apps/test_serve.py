"""The page of ``basicsr serve``: in a browser where there is one, and what is behind it without."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from image_zoo import encoded, picture
from torch import Tensor, nn

from semiisp_plugin.apps import serve
from semiisp_plugin.apps.enhance.enhancer import Enhancer
from semiisp_plugin.apps.enhance.network import save_network
from semiisp_plugin.apps.serve import Opened, served
from semiisp_plugin.io.image_io import read_image
from semiisp_plugin.toolbox import build_network


class Square(nn.Module):
    """x -> 1 - (1 - x)^2: brighter."""

    def forward(self, image: Tensor) -> Tensor:
        return 1 - (1 - image) ** 2


ENHANCER = Enhancer(Square(), device="cpu")


@pytest.fixture(autouse=True)
def _folders_of_this_test(tmp_path, monkeypatch):
    """What Gradio is told by environment variables is for one test; it makes a folder again that the first had."""
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "given" / "my photo.png"
    path.parent.mkdir()
    path.write_bytes(encoded(picture(240, 320), "PNG"))
    return path


def test_what_is_written_is_what_enhance_writes(photo):
    opened = Opened(ENHANCER, photo, "srgb", None)
    pixels = read_image(photo)
    for strength in (0, 0.5, 1, 1.5, 1):
        path, notes = opened.write(strength, "png")
        assert (Path(path).name, notes) == ("my photo_enhanced.png", [])
        np.testing.assert_array_equal(read_image(path), ENHANCER.enhance_image(pixels, strength=strength))
    path, _ = opened.write(1, "jpg")
    assert np.abs(read_image(path).astype(int) - ENHANCER.enhance_image(pixels)).mean() < 3
    del opened
    assert os.listdir(photo.parent) == [photo.name]


def test_raw_files_are_developed_or_not_as_enhance_does(tmp_path, write_dng):
    pytest.importorskip("rawpy", reason="needs rawpy (pip install -e '.[raw]')")
    path = write_dng(tmp_path / "given" / "a.dng", np.full((48, 64), 9000, np.uint16))
    before, after = Opened(ENHANCER, path, "srgb", None).preview(0.5)
    assert before.dtype == after.dtype == np.uint8
    assert after.mean() > before.mean()
    for inputs in ("raw", None):
        opened = Opened(ENHANCER, path, inputs, None)
        assert read_image(opened.write(1, "png")[0]).dtype == np.uint16
        with pytest.raises(ValueError, match=r"--strength 0.5: .*no picture yet"):
            opened.preview(0.5)


def test_previews_are_reduced_and_the_limit_of_pixels_is_kept(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(np.zeros((1700, 1800, 3), np.uint8), "PNG"))
    assert [image.shape for image in Opened(ENHANCER, path, "srgb", None).preview(1)] == [(1600, 1694, 3)] * 2
    with pytest.raises(ValueError, match="pixels"):
        Opened(ENHANCER, path, "srgb", 1_000_000)


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[serve\]'"), served(ENHANCER, "srgb", None):
        pass


@pytest.fixture
def gradio():
    return pytest.importorskip("gradio", reason="needs gradio (pip install -e '.[serve]')")


def test_the_page_is_for_this_machine_alone_and_takes_no_file_that_is_too_large(gradio, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"--port {port} is taken; give another with --port"
        with pytest.raises(OSError, match=message), served(ENHANCER, "srgb", None, port):
            pass
    monkeypatch.setattr(serve, "_MAX_UPLOAD", "1kb")
    with served(ENHANCER, "srgb", None) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert address.startswith("http://127.0.0.1:")
        port = int(address.rstrip("/").rpartition(":")[2])
        for other in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            if not other.startswith("127."):
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((other, port), 5)
        config = urllib.request.urlopen(f"{address}config").read().decode()
        assert '"api_visibility":"public"' not in config.replace(" ", "")
        for size, status in ((500, 200), (5000, 413)):
            body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n%s\r\n--x--\r\n'
            kind = {"Content-Type": "multipart/form-data; boundary=x"}
            request = urllib.request.Request(f"{address}gradio_api/upload", body % bytes(size), kind)
            try:
                found = urllib.request.urlopen(request).status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status
    assert not folder.exists()


@pytest.mark.slow
def test_a_signal_ends_the_command_and_leaves_nothing(gradio, tmp_path):
    options = {"type": "SepLUT", "n_vertices_3d": 3, "n_vertices_1d": 3, "thumbnail": 32, "n_base_feats": 2}
    save_network(tmp_path / "a.pth", options, build_network(dict(options)).state_dict(), "srgb")
    command = [sys.executable, "-m", "semiisp_plugin.cli", "serve", "--weights", tmp_path / "a.pth", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert "SepLUT" in process.stdout.readline()
        assert "Open http://127.0.0.1:" in process.stdout.readline()
        assert list(tmp_path.glob("basicsr_serve_*"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not list(tmp_path.glob("basicsr_serve_*"))


@pytest.fixture
def browser(gradio):
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.slow
def test_in_a_browser(browser, photo, tmp_path):
    """A photograph is given, compared, made weaker, downloaded; a file that is none is refused with the reason."""
    with served(ENHANCER, "srgb", None, about="Square") as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(photo)
        images = page.locator("#compare img")
        images.nth(1).wait_for()
        assert images.count() == 2
        assert not [p for p in folder.rglob("my photo*") if p.is_file()]  # what was given is deleted
        full = images.nth(1).get_attribute("src")
        page.locator("#strength input[type=number]").fill("0.5")
        page.wait_for_function("s => [...document.querySelectorAll('#compare img')].every(i => i.src != s)", arg=full)
        page.get_by_role("radio", name="PNG").check()
        page.get_by_role("button", name="full-size").click()
        with page.expect_download() as download:
            page.locator("#result a").first.click()
        assert download.value.suggested_filename == "my photo_enhanced.png"
        download.value.save_as(tmp_path / "result.png")
        if os.environ.get("SEMIISP_SCREENSHOT"):
            page.screenshot(path=os.environ["SEMIISP_SCREENSHOT"])
        wanted = ENHANCER.enhance_image(read_image(photo), strength=0.5)
        np.testing.assert_array_equal(read_image(tmp_path / "result.png"), wanted)

        (tmp_path / "page.jpg").write_text("<html>")
        page.get_by_label("Clear").first.click()
        page.locator("input[type=file]").first.set_input_files(photo)
        images.nth(1).wait_for()
        page.get_by_label("Clear").first.click()
        page.locator("input[type=file]").first.set_input_files(tmp_path / "page.jpg")
        page.get_by_text("a web page").wait_for()
        images.first.wait_for(state="detached")
        assert str(folder) not in page.get_by_text("a web page").inner_text()
        assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not folder.exists()
