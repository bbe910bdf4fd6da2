"""The documentation's site: it builds without a broken link or reference, and has what the code says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, load_script

from semiisp_plugin.arguments import COMMANDS
from semiisp_plugin.toolbox import ARCH_REGISTRY, MODEL_REGISTRY

site_pages = load_script("site_pages")


@pytest.mark.slow
def test_it_builds_strictly(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    shown = (tmp_path / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "One pseudo pair" in shown or "A batch of pseudo pairs" in shown


def test_generated_pages_have_all_that_is_registered():
    made = site_pages.pages()
    for name in COMMANDS:
        assert f"## basicsr {name}\n" in made["reference/commands.md"]
    for page, registry in (("networks", ARCH_REGISTRY), ("models", MODEL_REGISTRY)):
        own = {name for name, cls in registry if cls.__module__.startswith("semiisp_plugin.")}
        for name in own:
            assert f".{name}\n" in made[f"reference/{page}.md"]


def test_links_that_lead_out_of_the_pages_become_names():
    class File:
        src_uri, generated_by = "prepare.md", None

    class Page:
        file = File()

    text = "see [`paired.py`](../semiisp_plugin/report/paired.py), [here](enhance.md#a), [it](a.ipynb)"
    found = site_pages.on_page_markdown(text, Page(), None, None)
    assert found == "see `paired.py` (`semiisp_plugin/report/paired.py`), [here](enhance.md#a), [it](a.md)"
    assert not Path(ROOT, "docs", "reference").exists(), "generated pages are not kept"
