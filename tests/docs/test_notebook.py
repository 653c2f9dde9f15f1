"""The notebook runs from its first cell to its last, and what it was saved with is what it prints."""

from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "api.ipynb"
pytestmark = pytest.mark.skipif(not NOTEBOOK.is_file(), reason="the documentation is not in an installed package")


def printed(notebook):
    """What the cells write on stdout."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def test_the_notebook_runs_and_prints_what_it_was_saved_with(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    saved, fresh = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    # Sockets in a folder: nothing listens on a port.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(tmp_path / "kernel"))
    NotebookClient(
        fresh, km=kernel, timeout=600, startup_timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert not list(tmp_path.glob("runs*"))
    for cell in fresh.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type in ("stream", "execute_result"), output
            assert output.get("name") != "stderr", output.text
    # Figures of a model may differ in their last digits between machines; its words and all else may not.
    assert words(printed(fresh)) == words(printed(saved))


def words(text):
    """The text without its numbers, which machines round differently."""
    return [word for word in text.split() if not any(sign.isdigit() for sign in word)]


def test_what_it_was_saved_with_names_no_machine_and_says_what_it_is_not():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 150_000
    for folder_name in ("/home/", "/root/", "/tmp/", "/work", "site-packages"):
        assert folder_name not in text
    assert printed(nbformat.read(NOTEBOOK, as_version=4))
    assert "Research use only. Not a medical device." in text
