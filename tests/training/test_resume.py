"""A run killed at any moment and started again is the run without a break: weights, figures, rollouts, answers."""

import json
import random
import shutil
from pathlib import Path

import pytest
from lives import Lives, Trial, kill_and_resume
from runs import rows

from medvlm_r1.errors import UserError
from medvlm_r1.training.grpo import train_grpo
from medvlm_r1.training.reliability.checkpoint import MANIFEST, damage, finish_rotation, newest_whole, seal
from medvlm_r1.training.run_folder import RunFolder
from medvlm_r1.training.sft import train_sft

REWARD = [{"name": "sample_rewards:distinct_tokens"}]
REUSE = {"num_iterations": 2, "sync_ref_model": True, "ref_model_sync_steps": 2, "save_total_limit": 1}
ACCUMULATE = {"gradient_accumulation_steps": 3, "steps_per_generation": 2}
# Logs, checkpoints, epochs (4 steps) and generations end at different steps.
RUNS = {
    "grpo": {"rewards": REWARD, "trainer": {"max_steps": 6, "save_steps": 1, "logging_steps": 2}},
    "grpo-reuse": {
        "rewards": REWARD,
        "sharing": False,
        "trainer": {"max_steps": 6, "save_steps": 1, "logging_steps": 5, **REUSE},
    },
    "sft": {
        "lora": {"r": 2, "dropout": 0.1},
        "trainer": {"max_steps": 5, "save_steps": 2, "logging_steps": 3, "gradient_accumulation_steps": 2},
    },
    "grpo-lora": {"rewards": REWARD, "lora": {"r": 2}, "trainer": {"max_steps": 9, "save_steps": 2, "beta": 0.0}},
    "grpo-accumulate": {
        "rewards": REWARD,
        "trainer": {"max_steps": 6, "save_steps": 1, "logging_steps": 4, **ACCUMULATE},
    },
    "sft-epochs": {"trainer": {"max_steps": -1, "num_train_epochs": 3, "save_strategy": "epoch", "logging_steps": 4}},
}


def training(write_config, name, out):
    method = name.partition("-")[0]
    file = write_config(method, **RUNS[name])
    # Each run its own file; `write_config` has one name for all.
    file = file.replace(file.with_name(f"{name}.yaml"))
    return Trial(method, {"config": str(file)}, out, check_same)


def answering(verb, policy, data, out):
    arguments = {"model": str(policy), "data_dir": str(data), "batch_size": 2, "max_new_tokens": 4}
    return Trial(verb, arguments | ({"limit": 5} if verb == "audit" else {}), out, check_same_answers)


def check_same(straight, resumed):
    """The same final model, figures and rollouts, and the same checkpoints, all of them whole."""
    models = [{file.name: file.read_bytes() for file in (run / "model").iterdir()} for run in (straight, resumed)]
    assert models[0] == models[1]
    # The only figure that is a time.
    assert rows(straight / "metrics.jsonl", "step_time") == rows(resumed / "metrics.jsonl", "step_time")
    rollouts = [file.read_bytes() for run in (straight, resumed) for file in run.glob("rollouts.jsonl")]
    assert rollouts[:1] == rollouts[1:]
    names = [sorted(path.name for path in (run / "checkpoints").glob("*checkpoint*")) for run in (straight, resumed)]
    assert names[0] == names[1]
    assert all(damage(resumed / "checkpoints" / name) is None for name in names[1])
    assert not list(resumed.rglob("*.tmp")) + list(resumed.glob("*.partial"))


def check_same_answers(straight, resumed):
    assert rows(straight / "answers.jsonl", "seconds") == rows(resumed / "answers.jsonl", "seconds")
    for name in ("results.json", "audit.json"):
        figures = [json.loads(file.read_text()) for run in (straight, resumed) for file in run.glob(name)]
        assert [figure | {"seconds": 0} for figure in figures[:1]] == [
            figure | {"seconds": 0} for figure in figures[1:]
        ]


@pytest.fixture(scope="module")
def lives(tmp_path_factory, tiny_policy_dir):
    with Lives(tmp_path_factory.mktemp("lives") / "log", tiny_policy_dir) as process:
        yield process


@pytest.mark.parametrize(("name", "kills"), [("grpo", 8), ("grpo-reuse", 6), ("sft", 6)])
def test_a_training_killed_at_random_moments_is_the_same_run(lives, write_config, tmp_path, name, kills, tried):
    straight = training(write_config, name, tmp_path / "straight")
    _, events = lives.live(straight)
    kill_and_resume(lives, straight, events, tmp_path / "killed", random.Random(f"{name} 0"), kills)
    tried("resume-training", kills)


def kill_while_it_answers(lives, straight, out):
    """Kill a run again and again; nothing written may change, and nothing finished be asked again."""
    _, events = lives.live(straight)
    store, notes_file = out / "answers.jsonl", Path(f"{out}.asked")
    stored, noted = b"", 0

    def names():
        """The items of an evaluation's answers, or the variants of an audit's, as `killed_run` notes them."""
        parsed = [json.loads(line) for line in stored.splitlines()]
        return {f"{row['id']} {row['variant']}" if "plan" in row else row["id"] for row in parsed}

    def watch(killed):
        nonlocal stored, noted
        content = store.read_bytes() if store.exists() else b""
        # What was answered stays as it was written, line by line.
        assert content.startswith(stored)
        notes = notes_file.read_text().splitlines()
        assert not set(notes[noted:]) & names()
        stored, noted = content[: content.rfind(b"\n") + 1], len(notes)
        if not killed:
            assert set(notes) == names()
            notes_file.unlink()
            stored, noted = b"", 0

    kill_and_resume(lives, straight, events, out, random.Random(0), 6, watch)


def test_an_evaluation_killed_at_random_moments_keeps_every_answer(lives, tiny_policy_dir, data_dir, tmp_path, tried):
    straight = answering("eval", tiny_policy_dir, data_dir, tmp_path / "straight")
    kill_while_it_answers(lives, straight, tmp_path / "killed")
    tried("resume-evaluation", 6)


def test_an_audit_killed_at_random_moments_keeps_every_item(lives, tiny_policy_dir, data_dir, tmp_path, tried):
    straight = answering("audit", tiny_policy_dir, data_dir, tmp_path / "straight")
    kill_while_it_answers(lives, straight, tmp_path / "killed")
    tried("resume-audit", 6)


@pytest.mark.soak(share=12)
def test_soak_runs_killed_again_and_again(lives, write_config, tiny_policy_dir, data_dir, tmp_path, soaking, tried):
    trials = {name: training(write_config, name, tmp_path / f"{name}-straight") for name in RUNS}
    for verb in ("eval", "audit"):
        trials[verb] = answering(verb, tiny_policy_dir, data_dir, tmp_path / f"{verb}-straight")
    events = {name: lives.live(straight)[1] for name, straight in trials.items()}
    kills = round_ = 0
    while not kills or soaking():
        for name, straight in trials.items():
            draw = random.Random(f"{name} {round_}")
            kill_and_resume(lives, straight, events[name], tmp_path / f"{name}-{round_}", draw, 4)
            kills += 4
            if not soaking():
                break
        round_ += 1
        print(f"soak: {kills} kills, every run the same", flush=True)
    tried("resume-soak", kills)


@pytest.fixture
def checkpoints(tmp_path):
    """Two sealed checkpoints."""
    folder = tmp_path / "checkpoints"
    for step in (9, 10):
        checkpoint = folder / f"checkpoint-{step}"
        (checkpoint / "deep").mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        (checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 4)
        (checkpoint / "deep" / "optimizer.pt").write_bytes(b"x" * 300)
        seal(checkpoint)
    return folder


def test_every_damage_to_a_checkpoint_is_found(checkpoints, tried):
    checkpoint = checkpoints / "checkpoint-10"
    draw = random.Random(0)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert damage(checkpoint) is None
    cases = 0
    for file in files:
        whole = file.read_bytes()
        changed = [whole[: draw.randrange(len(whole))] for _ in range(5)] + [b""]
        for _ in range(5):
            at = draw.randrange(len(whole))
            changed.append(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        for content in changed:
            file.write_bytes(content)
            assert damage(checkpoint) is not None or content == whole
            cases += 1
        file.unlink()
        fault = damage(checkpoint)
        assert fault is not None
        assert file.name in fault
        cases += 1
        file.write_bytes(whole)
    assert damage(checkpoint) is None
    tried("damaged-checkpoint", cases)


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(checkpoints, capsys):
    (checkpoints / "checkpoint.partial" / "checkpoint-12").mkdir(parents=True)
    file = checkpoints / "checkpoint-10" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert newest_whole(checkpoints) == checkpoints / "checkpoint-9"
    warning = capsys.readouterr().err
    assert "checkpoint-10 is damaged: model.safetensors has another content" in warning
    assert "going on from step 9" in warning
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-9", "damaged-checkpoint-10"]
    # The other processes of a run come after the one that has looked.
    assert RunFolder(checkpoints.parent).last_checkpoint(main=False) == checkpoints / "checkpoint-9"
    assert RunFolder(checkpoints).last_checkpoint() is None
    (checkpoints / "checkpoint-9" / MANIFEST).write_text("{")
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(checkpoint-9: its files.json cannot be read\)"):
        newest_whole(checkpoints)


def test_a_run_with_a_damaged_last_checkpoint_ends_the_same(train, configure, tmp_path, capsys, tried):
    settings = {"rewards": REWARD, "trainer": {"max_steps": 5, "save_steps": 2}}
    straight = train(**settings, out=str(tmp_path / "straight"))
    config = configure(**settings, out=str(tmp_path / "damaged"))
    run = train_grpo(config).parent
    shutil.rmtree(run / "model")
    last = run / "checkpoints" / "checkpoint-5"
    optimizer = last / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-7])
    train_grpo(config)
    assert "checkpoint-5 is damaged: optimizer.pt has" in capsys.readouterr().err
    shutil.rmtree(run / "checkpoints" / "damaged-checkpoint-5")
    check_same(straight, run)
    tried("damaged-checkpoint", 1)


def test_a_run_killed_before_its_model_writes_the_same_files(configure, tried):
    config = configure("sft")
    model = train_sft(config)
    straight = {file.name: file.read_bytes() for file in model.iterdir()}
    # The tokenizer of a run that takes no step has seen no batch.
    shutil.rmtree(model)
    train_sft(config)
    assert {file.name: file.read_bytes() for file in model.iterdir()} == straight
    tried("resume-training", 1)


def test_a_run_killed_while_it_deleted_checkpoints_deletes_them(configure, tried):
    trainer = {"max_steps": 4, "save_steps": 1, "save_total_limit": 1}
    config = configure("sft", trainer=trainer)
    model = train_sft(config)
    checkpoints = model.parent / "checkpoints"
    half = checkpoints / "checkpoint-3"
    shutil.copytree(checkpoints / "checkpoint-4", half)
    (half / "optimizer.pt").unlink()
    shutil.rmtree(model)
    train_sft(config)
    assert [path.name for path in checkpoints.glob("*checkpoint*")] == ["checkpoint-4"]
    tried("resume-training", 1)


def test_a_deletion_spares_the_best_checkpoint(checkpoints):
    last = checkpoints / "checkpoint-10"
    (last / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": "elsewhere/checkpoint-9"}))
    finish_rotation(last, 1)
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-9", "checkpoint-10"}
    (last / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": None}))
    finish_rotation(last, 1)
    assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-10"}


def test_checkpoints_wait_for_the_end_of_reused_completions(train):
    trainer = {"max_steps": 7, "save_steps": 1, "num_iterations": 2, "save_total_limit": 9}
    run = train(rewards=REWARD, trainer=trainer)
    # The last step's is kept all the same: nothing comes after it.
    steps = {int(path.name.rpartition("-")[2]) for path in (run / "checkpoints").glob("checkpoint-*")}
    assert steps == {2, 4, 6, 7}
