"""The site: it builds strictly without a warning, its links and anchors hold, and no page fetches from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from documents import ROOT

from medvlm_r1.errors import RESEARCH_USE

# What a browser loads by itself; an <a> waits for the reader.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """Anchors, links, what is loaded, and the text of a page."""

    def __init__(self, file):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids |= {attributes[name] or "" for name in ("id", "name") if name in attributes}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"] or "")
        # Of links only those that a browser follows by itself; canonical and next are for search engines.
        if tag in LOADED and attributes.get(LOADED[tag]) and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attributes[LOADED[tag]] or "")

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of a strict build by its file."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return {file: Page(file) for file in folder.rglob("*.html")}


def test_every_page_says_what_it_is_for(site):
    assert len(site) > 25
    assert [file.name for file, page in site.items() if RESEARCH_USE not in page.text] == []


def test_links_and_anchors_hold(site):
    broken = []
    # The page of errors is served at any depth, so its links begin at the root.
    for file, page in ((file, page) for file, page in site.items() if file.name != "404.html"):
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchors = site[target].ids if target in site else {unquote(parts.fragment)}
            there = target.is_file() and (not parts.fragment or unquote(parts.fragment) in anchors)
            if not parts.scheme and not there:
                broken.append(f"{file.name}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site):
    loaded = [(file.name, link) for file, page in site.items() for link in page.loaded]
    assert loaded
    assert [pair for pair in loaded if urlsplit(pair[1]).scheme not in ("", "data") or pair[1].startswith("//")] == []
    styles = {style for file in site for style in file.parent.glob("assets/**/*.css")}
    assert styles
    for style in styles:
        text = style.read_text(encoding="utf-8")
        assert ("url(http" in text, "@import" in text) == (False, False)
