"""Continuous batching: the same tokens as one at a time, each row its own, and rows that leave."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvlm_r1.errors import UserError
from medvlm_r1.policy.generate import Generation, GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.serving.engine import Busy, Closed, Engine
from medvlm_r1.serving.job import Done, Event, Failed, Job, Piece, Started, first_stop, held_back

MakeEngine = Callable[..., Engine]
ENDLESS = GenerationSettings(max_new_tokens=10**6)


def conversation(number: int, *, image: bool = True) -> GenerationInput:
    """A question of a length and with an image of its own."""
    text = {"type": "text", "text": " ".join(["Which organ is shown?"] * (1 + number % 5) + [str(number)])}
    picture = Image.new("RGB", (28 + 28 * (number % 2), 28), (number * 37 % 256, number * 91 % 256, 80))
    content = [{"type": "image"}, text] if image else [text]
    return GenerationInput(prompt=[{"role": "user", "content": content}], images=[picture] if image else [])


def submit(engine: Engine, item: GenerationInput, limits: GenerationSettings, **wanted: Any) -> tuple[Job, Any]:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    bounded = wanted.pop("bounded", False)
    job = Job(item=item, settings=limits, tell=events.put, **wanted)
    engine.submit(job, bounded=bounded)
    return job, events


def finished(events: Any, n: int = 1) -> list[Event]:
    """All events of a request, up to its end."""
    seen: list[Event] = []
    while sum(isinstance(event, Done) for event in seen) < n:
        seen.append(events.get(timeout=300))
        if isinstance(seen[-1], Failed):
            raise seen[-1].error
    return seen


def texts(events: list[Event]) -> list[str]:
    done = {event.index: event.generation.text for event in events if isinstance(event, Done)}
    return [done[index] for index in sorted(done)]


def test_rows_that_come_and_go_write_what_each_writes_alone(make_engine: MakeEngine, endless_policy: Any) -> None:
    items = [conversation(number, image=number % 4 != 3) for number in range(20)]
    lengths = [3 + 5 * (number % 4) for number in range(20)]
    alone = LocalGenerator(policy=endless_policy, batch_size=1)
    expected = [
        alone.generate([item], GenerationSettings(max_new_tokens=length))[0]
        for item, length in zip(items, lengths, strict=True)
    ]
    assert len({one.text for one in expected}) > 10
    engine = make_engine(max_batch=6)
    waiting = [
        submit(engine, item, GenerationSettings(max_new_tokens=length))[1]
        for item, length in zip(items, lengths, strict=True)
    ]
    for events, one in zip(waiting, expected, strict=True):
        [done] = [event for event in finished(events) if isinstance(event, Done)]
        assert done.generation == one
        assert done.reason == "length"
    assert engine.running == engine.waiting == 0
    assert engine.counts.generated_tokens == sum(lengths)
    # Fewer passes than tokens: rows shared them.
    assert engine.counts.steps < sum(lengths)


def test_it_stops_at_the_end_token_like_the_local_generator(tiny_policy_dir: Any) -> None:
    from medvlm_r1.policy.load import load_policy

    policy = load_policy(str(tiny_policy_dir))
    limits = GenerationSettings(max_new_tokens=200)
    items = [conversation(number) for number in range(8)]
    expected = LocalGenerator(policy=policy, batch_size=4).generate(items, limits)
    engine = Engine(policy, max_batch=3)
    try:
        assert engine.generate(items, limits) == expected
    finally:
        engine.close()


def test_a_sampled_row_does_not_depend_on_its_neighbours(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=8)
    hot = GenerationSettings(max_new_tokens=10, temperature=1.0, seed=3)
    [alone] = texts(finished(submit(engine, conversation(1), hot)[1]))
    crowd = [submit(engine, conversation(number), hot)[1] for number in range(8)]
    assert texts(finished(crowd[1])) == [alone]
    four = texts(finished(submit(engine, conversation(1), hot, n=4)[1], n=4))
    assert four[0] == alone
    assert len(set(four)) > 1
    [cold] = texts(finished(submit(engine, conversation(1), hot, top_p=1e-6)[1]))
    [greedy] = texts(finished(submit(engine, conversation(1), GenerationSettings(max_new_tokens=10))[1]))
    assert cold == greedy


def test_several_completions_read_the_prompt_once(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=4)
    events = finished(submit(engine, conversation(2), GenerationSettings(max_new_tokens=4), n=4)[1], n=4)
    [started] = [event for event in events if isinstance(event, Started)]
    assert engine.counts.prompt_tokens == started.prompt_tokens > 0
    assert len(set(texts(events))) == 1


def test_pieces_join_to_the_text_and_carry_the_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    limits = GenerationSettings(max_new_tokens=12)
    events = finished(submit(engine, conversation(0), limits, live=True, top_logprobs=3)[1])
    [text] = texts(events)
    assert "".join(event.text for event in events if isinstance(event, Piece)) == text
    [done] = [event for event in events if isinstance(event, Done)]
    assert len(done.tokens) == done.generation.n_tokens == 12
    for token in done.tokens:
        assert token.logprob < 0
        assert len(token.top) == 3
        assert token.top[0] == (token.id, pytest.approx(token.logprob))


def test_a_stop_text_ends_and_is_left_out(make_engine: MakeEngine) -> None:
    engine = make_engine()
    limits = GenerationSettings(max_new_tokens=12)
    [whole] = texts(finished(submit(engine, conversation(0), limits)[1]))
    stop = whole[4:7]
    events = finished(submit(engine, conversation(0), limits, stop=(stop,), live=True)[1])
    [done] = [event for event in events if isinstance(event, Done)]
    assert (done.generation.text, done.reason) == (whole[: whole.index(stop)], "stop")
    assert "".join(event.text for event in events if isinstance(event, Piece)) == done.generation.text


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.text("ab"))
@settings(max_examples=300)
def test_what_is_told_is_never_taken_back(text: str, stops: list[str], more: str) -> None:
    if first_stop(text, tuple(stops)) is not None:
        return
    told = text[: len(text) - held_back(text, tuple(stops))]
    cut = first_stop(text + more, tuple(stops))
    assert (text + more)[:cut].startswith(told)


def test_a_cancelled_request_makes_room(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    first, events = submit(engine, conversation(0), ENDLESS, live=True)
    assert isinstance(events.get(timeout=300), Started)
    second, never = submit(engine, conversation(1), ENDLESS)
    _, last = submit(engine, conversation(2), GenerationSettings(max_new_tokens=2))
    second.cancel()
    first.cancel()
    assert len(texts(finished(last))) == 1
    assert engine.counts.cancelled == 2
    assert engine.running == engine.waiting == 0
    assert never.empty()


def test_a_full_queue_says_when_to_come_again(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1, queue=2)
    _, events = submit(engine, conversation(0), ENDLESS)
    assert isinstance(events.get(timeout=300), Started)
    for number in (1, 2):
        submit(engine, conversation(number), ENDLESS, bounded=True)
    with pytest.raises(Busy) as busy:
        submit(engine, conversation(3), ENDLESS, bounded=True)
    assert busy.value.seconds >= 1
    # The limit is for clients from outside.
    submit(engine, conversation(3), ENDLESS)
    assert engine.waiting == 3


def test_closing_fails_what_is_left_and_a_later_request_starts_again(make_engine: MakeEngine) -> None:
    engine = make_engine(max_batch=1)
    _, running = submit(engine, conversation(0), ENDLESS)
    assert isinstance(running.get(timeout=300), Started)
    _, waiting = submit(engine, conversation(1), ENDLESS)
    engine.close()
    for events in (running, waiting):
        event = events.get(timeout=300)
        assert isinstance(event, Failed)
        assert isinstance(event.error, Closed)
    assert engine.generate([conversation(0)], GenerationSettings(max_new_tokens=2))[0].n_tokens == 2


def test_one_bad_prompt_does_not_spoil_the_others(make_engine: MakeEngine) -> None:
    thin = GenerationInput(prompt=conversation(0).prompt, images=[Image.new("RGB", (1, 1000))])
    engine = make_engine(max_batch=8)
    blocker, _ = submit(engine, conversation(0), ENDLESS)
    limits = GenerationSettings(max_new_tokens=3)
    first = submit(engine, conversation(1), limits)[1]
    with pytest.raises(UserError, match="1 x 1000 pixels: absolute aspect ratio"):
        submit(engine, thin, limits)
    second = submit(engine, conversation(2), limits)[1]
    blocker.cancel()
    assert all(len(texts(finished(waiting))) == 1 for waiting in (first, second))


def test_a_prompt_longer_than_the_model_reads_is_refused(
    make_engine: MakeEngine, endless_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endless_policy.model.config.get_text_config(), "max_position_embeddings", 30)
    engine = make_engine()
    with pytest.raises(UserError, match="the model reads 30"):
        engine.generate([conversation(4)], GenerationSettings(max_new_tokens=2))
    short = GenerationInput(prompt=[{"role": "user", "content": "A"}])
    [generation] = engine.generate([short], GenerationSettings(max_new_tokens=500))
    assert generation.truncated
    assert generation.n_tokens < 30


def test_a_failing_step_fails_its_requests_alone(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("medvlm_r1.serving.rows.Rows.step", fail)
        with pytest.raises(MemoryError):
            engine.generate([conversation(0)], GenerationSettings(max_new_tokens=3))
    assert engine.generate([conversation(0)], GenerationSettings(max_new_tokens=3))[0].n_tokens == 3


def test_a_model_that_is_not_run_by_rows_is_completed_batch_by_batch(
    make_engine: MakeEngine, endless_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endless_policy.model.config.get_text_config(), "_attn_implementation", "eager")
    engine = make_engine()
    limits = GenerationSettings(max_new_tokens=6)
    items = [conversation(number) for number in range(3)]
    alone = LocalGenerator(policy=endless_policy, batch_size=1)
    expected: list[Generation] = [alone.generate([item], limits)[0] for item in items]
    assert engine.generate(items, limits) == expected
    events = finished(submit(engine, items[0], limits, live=True)[1])
    assert "".join(event.text for event in events if isinstance(event, Piece)) == expected[0].text
    with pytest.raises(UserError, match="logprobs"):
        finished(submit(engine, items[0], limits, top_logprobs=1)[1])
