"""What the page's server gives away: nothing but the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from page_model import scripted
from starlette.testclient import TestClient

from medvlm_r1.serving.page import mount_page
from medvlm_r1.serving.page.gate import is_upload, private_uploads


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> list[str]:
        return ["one"]

    mount_page(app, scripted(lambda image, prompt: ""), max_upload=1000)
    with TestClient(app) as client:
        yield client


def join(client: TestClient, data: object, **more: object) -> int:
    body = {"data": data, "fn_index": 0, "session_hash": "x", **more}
    return client.post("/gradio_api/queue/join", json=body).status_code


def upload(client: TestClient, content: bytes = b"x", name: str = "a.png"):
    return client.post("/gradio_api/upload", files={"files": (name, content)})


def test_the_page_is_there_and_seals_itself(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert client.get("/config").status_code == 200
    assert client.get("/theme.css").status_code == 200


def test_other_routes_of_the_application_stay(client: TestClient) -> None:
    assert client.get("/v1/models").json() == ["one"]


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
        "/monitoring",
        "/monitoring/summary",
        "/svelte/x",
        "//gradio_api/file=/etc/passwd",
    ],
)
def test_what_the_page_does_not_need_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/gradio_api/run/predict", "/gradio_api/call/upload", "/gradio_api/component_server", "/login", "/"]
)
def test_nothing_can_be_called_past_the_page(client: TestClient, path: str) -> None:
    assert client.post(path, json={"data": []}).status_code == 404
    assert client.put(path).status_code == 404


@pytest.mark.parametrize("prefix", ["/static/", "/assets/"])
def test_no_path_leads_out_of_the_static_files(client: TestClient, prefix: str) -> None:
    for way in ("..%2f" * 12 + "etc/passwd", "/etc/passwd", "%2e%2e/" * 12 + "etc/passwd"):
        assert client.get(prefix + way).status_code in (403, 404)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "etc/passwd",
        "https://example.com/x.png",
        " HTTPS://example.com/x.png",
        "file:///etc/passwd",
        "",
        None,
        ["/etc/passwd"],
    ],
)
def test_an_event_names_uploads_alone(client: TestClient, path: object) -> None:
    assert join(client, [{"path": path, "meta": {"_type": "gradio.FileData"}}]) == 400
    assert join(client, [[{"deep": {"path": path}}]]) == 400
    assert join(client, [], more={"path": path}) == 400


def test_no_way_leads_out_of_the_folder_of_uploads(client: TestClient) -> None:
    folder = private_uploads()
    assert not is_upload(str(folder))
    assert not is_upload(f"{folder}/../{folder.name}-other/x")
    assert not is_upload(f"{folder}/a/../../x")
    assert not is_upload(f"{folder}/a\0b")
    assert is_upload(f"{folder}/a/b.png")
    (folder / "link").symlink_to("/etc")
    try:
        assert not is_upload(f"{folder}/link/passwd")
    finally:
        (folder / "link").unlink()


def test_an_upload_lies_where_this_user_alone_can_read_it(client: TestClient) -> None:
    [path] = upload(client).json()
    assert is_upload(path)
    assert private_uploads().stat().st_mode & 0o077 == 0
    assert client.get(f"/gradio_api/file={path}").status_code == 404
    Path(path).unlink()
    Path(path).parent.rmdir()


def test_a_file_that_is_too_large_is_413_and_leaves_nothing(client: TestClient) -> None:
    refused = upload(client, b"x" * 1001)
    assert refused.status_code == 413
    assert "maximum allowed size" in refused.text
    assert not [file for file in private_uploads().rglob("*") if file.is_file()]


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"1", b"[" * 100_000, b"\xff\xfe"])
def test_a_broken_event_is_refused(client: TestClient, body: bytes) -> None:
    sent = client.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"})
    assert sent.status_code == 400


def test_an_event_of_too_much_text_is_413(client: TestClient) -> None:
    body = json.dumps({"data": ["x" * 2**21]})
    assert client.post("/gradio_api/queue/join", content=body).status_code == 413


def test_nothing_is_recorded_shared_or_sent_home(client: TestClient) -> None:
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["space_id"] is None
    text = client.get("/").text + json.dumps(config) + client.get("/theme.css").text
    assert "fonts.googleapis" not in text
    assert "fonts.gstatic" not in text
    assert "api.gradio.app" not in text
