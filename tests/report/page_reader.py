"""Reads a page as a browser would, and checks what holds for every page."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from medvlm_r1.report.page import template_text

HOSTILE = (
    '<script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(1)>"\'&amp;{{ 7*7 }}\u202e</main>'
)


class Reader(HTMLParser):
    """Collects tags with their attributes, and the visible text; every tag must be closed in order."""

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.open = []
        self.words = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def count(self, tag):
        return [name for name, _ in self.tags].count(tag)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def assert_sealed(path):
    """Nothing is fetched, and nothing runs but the one script, which the page's policy knows by its hash."""
    page = re.sub(r"base64,[\w+/=]+", "", path.read_text(encoding="utf-8"))
    [script] = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert script == template_text("sort.js")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<link|<iframe|javascript:", page.replace(script, ""))
    assert not re.search(r"https?:|fetch|import|eval|innerHTML|document\.write", script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(attrs["content"] for _, attrs in Reader(path).tags if "http-equiv" in attrs)
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )


def assert_only_text(page):
    """`HOSTILE`, which the page shows, has become text: no tag or attribute of it is one of the page."""
    assert not {"iframe", "object", "embed", "form", "link"} & {tag for tag, _ in page.tags}
    assert all((attrs["src"] or "").startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert all((attrs["href"] or "").startswith("#") for tag, attrs in page.tags if tag == "a")
    assert page.count("script") == 1
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
