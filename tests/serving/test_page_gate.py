"""What the page's server gives away: nothing but the page, and only to whom it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_model import scripted
from starlette.testclient import TestClient

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.page import build_app
from medvlm_r1.serving.page.gate import Gate, is_upload, private_uploads
from medvlm_r1.serving.server import is_local

TOKEN = "x" * 16


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = build_app(scripted(""), max_upload=1000)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def test_the_page_is_sealed_and_nothing_is_recorded_shared_or_sent_home(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["X-Research-Use"] == RESEARCH_USE
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["space_id"] is None
    text = page.text + json.dumps(config) + client.get("/theme.css").text
    for address in ("fonts.googleapis", "fonts.gstatic", "api.gradio.app"):
        assert address not in text


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=https://example.com/",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://example.com/",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/gradio_api/openapi.json",
        "/gradio_api/custom_component/a/b/c/d",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/vibe-code",
        "/monitoring/summary",
        "/svelte/x",
        "//gradio_api/file=/etc/passwd",
        *("/v1/models", "/docs", "/openapi.json", "/metrics"),
        *(
            prefix + way
            for prefix in ("/static/", "/assets/")
            for way in ("..%2f" * 12 + "etc/passwd", "/etc/passwd", "%2e%2e/" * 12 + "etc/passwd")
        ),
    ],
)
def test_what_the_page_does_not_need_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (403, 404)


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/predict", "/gradio_api/call/upload", "/gradio_api/component_server", "/login", "/"]
)
def test_nothing_can_be_called_past_the_page(client: TestClient, path: str) -> None:
    assert client.post(path, json={"data": []}).status_code == 404
    assert client.put(path).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "etc/passwd", " HTTPS://example.com/x.png", "file:///etc/passwd", "", None, ["/etc/passwd"]],
)
def test_an_event_names_uploads_alone(client: TestClient, path: object) -> None:
    for data, more in (([{"path": path, "meta": {}}], {}), ([[{"deep": {"path": path}}]], {}), ([], {"path": path})):
        body = {"data": data, "fn_index": 0, "session_hash": "x", "more": more}
        assert client.post("/gradio_api/queue/join", json=body).status_code == 400


@pytest.mark.parametrize(
    ("body", "status"),
    [
        *((body, 400) for body in (b"", b"no json", b"[]", b"1", b"[" * 100_000, b"\xff\xfe")),
        (json.dumps({"data": ["x" * 2**21]}).encode(), 413),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_broken_or_long_event_is_refused(client: TestClient, body: bytes, status: int) -> None:
    sent = client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert sent.status_code == status


def test_no_way_leads_out_of_the_folder_of_uploads() -> None:
    folder = private_uploads()
    assert is_upload(f"{folder}/a/b.png")
    (folder / "link").symlink_to("/etc")
    try:
        for path in ("", f"/../{folder.name}-other/x", "/a/../../x", "/a\0b", "/link/passwd"):
            assert not is_upload(f"{folder}{path}")
    finally:
        (folder / "link").unlink()


def test_an_upload_is_private_and_a_large_one_is_413_and_leaves_nothing(client: TestClient) -> None:
    def upload(content: bytes) -> Any:
        return client.post("/gradio_api/upload", files={"files": ("a.png", content)})

    [path] = upload(b"x").json()
    assert is_upload(path)
    assert private_uploads().stat().st_mode & 0o077 == 0
    assert client.get(f"/gradio_api/file={path}").status_code == 404
    Path(path).unlink()
    Path(path).parent.rmdir()
    refused = upload(b"x" * 1001)
    assert refused.status_code == 413
    assert "maximum allowed size" in refused.text
    assert not [file for file in private_uploads().rglob("*") if file.is_file()]


def test_a_token_and_a_local_name_are_required(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        refused = client.get("/", headers={"host": host})
        assert (refused.status_code, refused.headers["X-Research-Use"]) == (421, RESEARCH_USE)
    with TestClient(build_app(scripted(""), token=TOKEN)) as guarded:
        assert guarded.get("/").status_code == 401
        page = guarded.get("/", headers={"accept": "text/html"})
        assert page.headers["WWW-Authenticate"].startswith("Basic")
        for given in ("Bearer wrong", "Basic !!", "Bearer " + TOKEN[1:], "Digest x"):
            assert guarded.get("/", headers={"authorization": given}).status_code == 401
        assert guarded.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert guarded.get("/", auth=("anybody", TOKEN)).status_code == 200
    assert all(is_local(host) for host in ("127.0.0.1", "localhost", "::1", "127.8.9.1"))
    assert not any(is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "localhost.example.org", ""))


def test_an_error_of_the_program_is_logged_by_its_type_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the patient's name")

    reply = TestClient(Gate(fails, token=None, local=False)).get("/")
    assert reply.status_code == 500
    assert "RuntimeError" in reply.text
    assert "patient" not in reply.text + caplog.text
