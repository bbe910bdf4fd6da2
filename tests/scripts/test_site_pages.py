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
    networks = (tmp_path / "reference" / "networks" / "index.html").read_text(encoding="utf-8")
    assert 'id="kbnet_s"' in networks
    assert "kernel basis network for image restoration" in networks, "the module's docstring"
    assert ":meth:" not in networks
    assert 'href="../reference/networks/#kbnet_s"' in (tmp_path / "models" / "index.html").read_text(encoding="utf-8")


def test_generated_pages_have_all_that_is_registered():
    made = site_pages.pages()
    for name in COMMANDS:
        assert f"## basicsr {name}\n" in made["reference/commands.md"]
    for page, registry in (("networks", ARCH_REGISTRY), ("models", MODEL_REGISTRY)):
        own = {name for name, cls in registry if cls.__module__.startswith("semiisp_plugin.")}
        for name in own:
            assert f".{name}\n" in made[f"reference/{page}.md"]


def test_a_network_s_entry_has_what_its_module_says_and_methods_that_say_something():
    entries = dict(part.split("\n", 1) for part in site_pages.networks().split("\n## ")[1:])
    assert list(entries) == sorted(entries, key=str.lower)
    text, described = entries["SYENet"].split("\n::: ")[1:]
    assert text.startswith("semiisp_plugin.archs.syenet_arch\n")
    assert "members: [fuse]" in described, "and not enhance, which refers to another class"


def test_links_that_lead_out_of_the_pages_become_names_or_lead_to_entries():
    class File:
        src_uri, generated_by = "prepare.md", None

    class Page:
        file = File()

    text = "see [`paired.py`](../semiisp_plugin/report/paired.py), [here](enhance.md#a), [it](a.ipynb)"
    found = site_pages.on_page_markdown(text, Page(), None, None)
    assert found == "see `paired.py` (`semiisp_plugin/report/paired.py`), [here](enhance.md#a), [it](a.md)"
    for folder, home in (("", ""), ("tutorials/", "../")):
        Page.file.src_uri = f"{folder}a.md"
        found = site_pages.on_page_markdown(f"[it]({home}../semiisp_plugin/archs/cidnet_arch.py)", Page(), None, None)
        assert found == f"[it]({home}reference/networks.md#cidnet)"
    assert not Path(ROOT, "docs", "reference").exists(), "generated pages are not kept"
