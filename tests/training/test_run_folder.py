"""The run folder: made once, recognised again, refused to another run; its growing files."""

import json

import pytest
import yaml
from runs import rows

from medvlm_r1.data.rows import append_rows, drop_rows_after
from medvlm_r1.errors import UserError
from medvlm_r1.models import device
from medvlm_r1.training.config import load_config
from medvlm_r1.training.run_folder import prepare_run

DATA = {"train": {"folder": "d", "hash": "abc", "samples": 8, "by_modality": {"MRI": 8}}}


def test_folder_describes_the_run_and_is_recognised(configure, monkeypatch):
    config = configure()
    run = prepare_run(config, DATA)
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config.model_dump(mode="json")
    assert json.loads((run.path / "data.json").read_text()) == DATA
    before = (run.path / "env.json").read_text()
    assert prepare_run(config, DATA).path == run.path
    assert (run.path / "env.json").read_text() == before

    monkeypatch.setattr("platform.python_version", lambda: "9.9")
    prepare_run(config, DATA)
    prepare_run(config, DATA)
    environment = json.loads((run.path / "env.json").read_text())
    assert environment["python"] == json.loads(before)["python"]
    assert [later["python"] for later in environment["resumed_with"]] == ["9.9"]


def test_another_configuration_or_other_data_are_refused(write_config, tmp_path):
    file = write_config()
    prepare_run(load_config(file), DATA)
    changed = load_config(file, ["trainer.beta=0", "seed=4", "trainer.top_p=0.9"])
    with pytest.raises(UserError) as refused:
        prepare_run(changed, DATA)
    assert "seed: 0 there, 4 now; trainer.beta: 0.04 there, 0.0 now; trainer.top_p: (absent) there, 0.9 now" in str(
        refused.value
    )
    with pytest.raises(UserError, match=r"another data: train\.hash: abc there, xyz now"):
        prepare_run(load_config(file), {"train": {**DATA["train"], "hash": "xyz"}})
    # The same folders by another spelling are the same run.
    respelt = load_config(file, [f"out={tmp_path}/x/../run"])
    prepare_run(respelt, {"train": {**DATA["train"], "folder": "./d"}})


@pytest.mark.parametrize("left", ["data.json.tmp", "env.json.tmp", "config.yaml.tmp", ".lock"])
def test_what_a_killed_beginning_leaves_is_completed(configure, tmp_path, left):
    out = tmp_path / "run"
    out.mkdir()
    (out / "data.json").write_text("{}")
    (out / left).write_text("half")
    prepare_run(configure(), DATA)
    assert json.loads((out / "data.json").read_text()) == DATA
    (out / "data.json").unlink()
    with pytest.raises(UserError, match=r"data\.json: cannot be read"):
        prepare_run(configure(), DATA)


def test_a_guard_may_be_silenced_in_a_run_that_was_begun(configure):
    prepare_run(configure(on_guard="stop"), DATA)
    prepare_run(configure(on_guard="warn"), DATA)


def test_growing_file_is_cut_back_to_a_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    drop_rows_after(file, 3)
    assert not file.exists()
    append_rows(file, [{"step": step, "loss": float("nan") if step == 2 else 0.5} for step in (1, 2, 3, 4)])
    append_rows(file, [{"step": 3, "completion": "line\u2028separator"}])
    with file.open("a") as stream:
        stream.write('{"step": 3, "lo')
    drop_rows_after(file, 3)
    rollouts = rows(file)
    assert rollouts[:3] == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}, {"step": 3, "loss": 0.5}]
    assert rollouts[3:] == [{"step": 3, "completion": "line\u2028separator"}]
    drop_rows_after(file, 0)
    assert file.read_text() == ""


def test_commit_is_none_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "__file__", str(tmp_path / "device.py"))
    assert device._commit() is None
