"""Answering variants: shared work gives the answers that asking one by one gives."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medvlm_r1.audit.backends import GeneratorAuditBackend, local_audit_backend, open_audit_backend, stream_answers
from medvlm_r1.audit.local_backend import LocalAuditBackend
from medvlm_r1.audit.variant import Variant
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.sharing import forward as shared_prefix

TOKENS = 12


@pytest.fixture(scope="module")
def policy(tiny_policy_dir: Path) -> Policy:
    return load_policy(str(tiny_policy_dir), device="cpu")


def sample(name: str, n_options: int = 3) -> Sample:
    options = ("liver", "kidney", "brain", "knee")[:n_options]
    return Sample(
        id=name,
        images=(f"images/{name}.png",),
        question=f"Which {name}?",
        options=options,
        answer="liver",
        modality="CT",
    )


def picture(shade: int, size: tuple[int, int] = (40, 30)) -> tuple[Image.Image]:
    return (Image.new("RGB", size, (shade, 90, 160)),)


def variants() -> list[Variant]:
    """Two items, images of two sizes, with and without prefixes, text alone, letters, samples."""
    a, b = sample("one"), sample("two", 4)
    shown = picture(30), picture(200, (70, 56))
    return [
        Variant(name="real", sample=a, images=shown[0]),
        Variant(name="real", sample=b, images=shown[1]),
        Variant(name="letters", sample=b, images=shown[1], prefix="<answer>", letter_only=True),
        Variant(name="turned", sample=replace(a, options=a.options[::-1]), images=shown[0]),
        Variant(name="begun", sample=a, images=shown[0], prefix="<think>liver kidney"),
        Variant(name="absent", sample=replace(b, images=()), images=()),
        Variant(name="cut", sample=a, images=shown[0], prefix="<think>liver</think><answer>", letter_only=True),
        Variant(name="blank", sample=a, images=picture(127), note={"kept": 1}),
        Variant(name="nothing", sample=a, images=shown[0], prefix="<think></think><answer>", letter_only=True),
        Variant(name="without", sample=replace(a, images=()), images=(), prefix="<answer>", letter_only=True),
    ]


def test_shared_answers_are_the_ones_given_one_by_one(policy: Policy) -> None:
    shared = LocalAuditBackend(policy=policy, max_new_tokens=TOKENS).answer(variants())
    plain = GeneratorAuditBackend(generator=LocalGenerator(policy=policy), policy=policy, max_new_tokens=TOKENS).answer(
        variants()
    )
    assert [answer.text for answer in shared] == [answer.text for answer in plain]
    assert [replace(answer, probabilities=None) for answer in shared] == [
        replace(answer, probabilities=None) for answer in plain
    ]
    for ours, other in zip(shared, plain, strict=True):
        assert (ours.probabilities is None) == (other.probabilities is None)
        if ours.probabilities and other.probabilities:
            assert ours.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert shared[7].note == {"kept": 1}
    assert shared[4].text.startswith("<think>liver kidney")


def test_small_parts_change_nothing(policy: Policy) -> None:
    whole = LocalAuditBackend(policy=policy, max_new_tokens=TOKENS).answer(variants())
    parts = LocalAuditBackend(policy=policy, max_new_tokens=TOKENS, rows=2, tokens=300).answer(variants())
    assert [answer.text for answer in parts] == [answer.text for answer in whole]


def test_an_image_is_encoded_once_for_all_variants_and_batches(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = shared_prefix.encode_images

    def counted(model: Any, vision: Any) -> Any:
        seen.append(len(vision["image_grid_thw"]))
        return plain(model, vision)

    monkeypatch.setattr(shared_prefix, "encode_images", counted)
    backend = LocalAuditBackend(policy=policy, max_new_tokens=2)
    backend.answer(variants())
    backend.answer(variants()[:2])
    assert sum(seen) == 3  # two items' images, and a blank one


def test_turns_after_a_prompt_that_was_read_are_run_alone(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = LocalAuditBackend(policy=policy, max_new_tokens=TOKENS)
    expected = dict(zip([(v.name, v.sample.id) for v in variants()], backend.answer(variants()), strict=True))
    turns = [variant for variant in variants() if variant.prefix and variant.name != "without"]
    monkeypatch.setattr(LocalAuditBackend, "_generate", None)
    monkeypatch.setattr(LocalAuditBackend, "_letter_logits", None)
    for variant, answer in zip(turns, backend.answer(turns), strict=True):
        before = expected[variant.name, variant.sample.id]
        assert replace(answer, probabilities=None) == replace(before, probabilities=None)
        assert answer.probabilities == (before.probabilities and pytest.approx(before.probabilities, abs=1e-5))


@pytest.mark.parametrize("done", [range(10), range(5), (0, 1, 7), (2, 4, 6, 8)])
def test_what_is_done_is_left_out_and_the_rest_is_the_same_bit_by_bit(policy: Policy, done: Sequence[int]) -> None:
    """So are the turns after prompts that an earlier, interrupted call has read."""

    def backend() -> LocalAuditBackend:
        return LocalAuditBackend(policy=policy, max_new_tokens=TOKENS, rows=2)

    turns = [replace(variant, name=f"{variant.name}-2") for variant in variants() if variant.prefix]
    straight, resumed = backend(), backend()
    expected = straight.answer(variants())
    again = dict(pair for pairs in stream_answers(resumed, variants(), done) for pair in pairs)
    assert not set(again) & set(done)
    assert again == {place: answer for place, answer in enumerate(expected) if place not in done}
    assert resumed.answer(turns) == straight.answer(turns)


def test_a_batch_that_is_done_is_not_written_again(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plain = type(policy.model).generate

    def generate(self: Any, *arguments: Any, **given: Any) -> Any:
        asked.append(given["generation_config"].max_new_tokens)
        return plain(self, *arguments, **given)

    monkeypatch.setattr(type(policy.model), "generate", generate)
    LocalAuditBackend(policy=policy, max_new_tokens=TOKENS, rows=2).answer(variants())
    whole = asked.copy()
    asked.clear()
    assert (
        list(stream_answers(LocalAuditBackend(policy=policy, max_new_tokens=TOKENS, rows=2), variants(), range(10)))
        == []
    )
    assert set(whole) == {TOKENS}
    assert asked
    assert set(asked) == {1}
    assert len(asked) < len(whole)


def votes(name: str, seeds: Sequence[int]) -> list[Variant]:
    return [
        Variant(name=f"vote-{seed}", sample=sample(name), images=picture(30), temperature=1.0, seed=seed)
        for seed in seeds
    ]


def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_neighbours(policy: Policy) -> None:
    backend = LocalAuditBackend(policy=policy, max_new_tokens=TOKENS)
    alone = backend.answer(votes("one", [3]))
    among = backend.answer([*variants(), *votes("one", [1, 2, 3, 4]), *votes("two", [3])])
    texts = [answer.text for answer in among[-5:-1]]
    assert texts[2] == alone[0].text
    assert len(set(texts)) == 4
    greedy = backend.answer(variants())
    assert [answer.text for answer in among[: len(greedy)]] == [answer.text for answer in greedy]


class Server:
    """Writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float, int]] = []
        self.seeds: dict[int, set[int]] = {}

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        self.asked.append((len(items), settings.temperature, settings.seed))
        self.seeds.setdefault(settings.seed, set()).update(item.seed for item in items)
        return [Generation(text="<think>x</think><answer>B</answer>", n_tokens=5, truncated=False) for _ in items]


def test_a_server_is_asked_for_greedy_answers_together_and_for_samples_with_different_seeds() -> None:
    server = Server()
    backend = GeneratorAuditBackend(generator=server)
    assert not backend.local
    plain = [variant for variant in variants() if not variant.prefix]
    answers = backend.answer([*votes("one", [7, 8]), *plain, *votes("two", [7, 8])])
    assert sorted(server.asked) == [(2, 1.0, 7), (2, 1.0, 8), (len(plain), 0.0, 0)]
    assert {answer.letter for answer in answers} == {"B"}
    assert answers[2].option == "kidney"
    # Two items do not share their draws.
    assert len(server.seeds[7]) == len(server.seeds[8]) == 2


def test_a_letter_alone_is_an_answer_where_that_was_asked_for() -> None:
    class Bare(Server):
        def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
            return [Generation(text="B", n_tokens=1, truncated=False) for _ in items]

    plain = [variant for variant in variants() if not variant.prefix]
    bare = GeneratorAuditBackend(generator=Bare(), template="answer-only").answer(plain)
    assert {answer.letter for answer in bare} == {"B"}
    assert {answer.letter for answer in GeneratorAuditBackend(generator=Bare()).answer(plain)} == {None}


def test_a_letter_that_is_not_offered_is_no_answer() -> None:
    class Third(Server):
        def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
            return [Generation(text="<think>x</think><answer>C</answer>", n_tokens=5, truncated=False) for _ in items]

    two = replace(sample("one"), options=("liver", "kidney"))
    [answer] = GeneratorAuditBackend(generator=Third()).answer([Variant(name="real", sample=two, images=picture(1))])
    assert (answer.letter, answer.option) == (None, None)


def test_the_family_decides_how_a_policy_is_asked(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(local_audit_backend(policy, template="medvlm-r1", max_new_tokens=4), LocalAuditBackend)
    monkeypatch.setattr(policy.model.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    other = local_audit_backend(policy, template="medvlm-r1", max_new_tokens=4)
    assert isinstance(other, GeneratorAuditBackend)
    assert other.local


def test_a_model_is_loaded_when_it_is_first_asked(tmp_path: Path) -> None:
    lazy = open_audit_backend(str(tmp_path / "absent"), "medvlm-r1", 4, 1)
    assert lazy.local
    assert lazy.answer([]) == []
    with pytest.raises(UserError, match="No model folder"):
        lazy.answer(variants())


def test_a_server_is_known_by_its_name() -> None:
    assert not open_audit_backend("openai:http://localhost:1/v1#m", "medvlm-r1", 4, 1).local
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        open_audit_backend("openai:localhost", "medvlm-r1", 4, 1)
