"""Backends: shared work gives the answers that generating one by one gives."""

from dataclasses import replace

import pytest
from PIL import Image

from chat_server import Vllm
from medvlm_r1.audit import local_backend
from medvlm_r1.audit.backends import GeneratorAuditBackend, local_audit_backend, open_audit_backend
from medvlm_r1.audit.local_backend import LocalAuditBackend
from medvlm_r1.audit.variant import Variant
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.models.load import load_policy

TOKENS = 12


@pytest.fixture(scope="module")
def policy(tiny_policy_dir):
    return load_policy(str(tiny_policy_dir), device="cpu")


def local(policy, **settings):
    return LocalAuditBackend(policy=policy, **{"max_new_tokens": TOKENS, **settings})


def sample(name, n_options=3):
    options = ("liver", "kidney", "brain", "knee")[:n_options]
    fields = {"question": f"Which {name}?", "options": options, "answer": "liver", "modality": "CT"}
    return Sample(id=name, images=(f"images/{name}.png",), **fields)


def picture(shade, size=(40, 30)):
    return (Image.new("RGB", size, (shade, 90, 160)),)


def assert_same(answers, expected):
    for ours, other in zip(answers, expected, strict=True):
        assert replace(ours, probabilities=None) == replace(other, probabilities=None)
        assert ours.probabilities == (other.probabilities and pytest.approx(other.probabilities, abs=1e-5))


def variants():
    """Two items, images of two sizes, with and without prefixes, text alone, letters, samples."""
    a, b = sample("one"), sample("two", 4)
    small, large = picture(30), picture(200, (70, 56))
    return [
        Variant(name="real", sample=a, images=small),
        Variant(name="real", sample=b, images=large),
        Variant(name="letters", sample=b, images=large, prefix="<answer>", letter_only=True),
        Variant(name="turned", sample=replace(a, options=a.options[::-1]), images=small),
        Variant(name="begun", sample=a, images=small, prefix="<think>liver kidney"),
        Variant(name="absent", sample=replace(b, images=()), images=()),
        Variant(name="cut", sample=a, images=small, prefix="<think>liver</think><answer>", letter_only=True),
        Variant(name="blank", sample=a, images=picture(127), note={"kept": 1}),
        Variant(name="nothing", sample=a, images=small, prefix="<think></think><answer>", letter_only=True),
        Variant(name="without", sample=replace(a, images=()), images=(), prefix="<answer>", letter_only=True),
    ]


def test_shared_answers_in_batches_of_any_size_are_the_ones_generated_one_by_one(policy):
    plain = GeneratorAuditBackend(policy=policy, max_new_tokens=TOKENS).answer(variants())
    for settings in ({}, {"rows": 2, "tokens": 300}):
        assert_same(local(policy, **settings).answer(variants()), plain)
    assert plain[7].note == {"kept": 1}
    assert plain[4].text.startswith("<think>liver kidney")


def test_an_image_is_encoded_once_for_all_variants_and_batches(policy, monkeypatch):
    counts, plain = [], local_backend.encode_images
    monkeypatch.setattr(
        local_backend,
        "encode_images",
        lambda model, vision: counts.append(len(vision["image_grid_thw"])) or plain(model, vision),
    )
    backend = local(policy, max_new_tokens=2)
    backend.answer(variants())
    backend.answer(variants()[:2])
    assert sum(counts) == 3  # two items' images, and a blank one


def test_prefills_after_a_prompt_with_a_stored_cache_run_alone(policy, monkeypatch):
    backend = local(policy)
    prefilled = [n for n, variant in enumerate(variants()) if variant.prefix and variant.name != "without"]
    expected = backend.answer(variants())
    monkeypatch.setattr(LocalAuditBackend, "_generate", None)
    monkeypatch.setattr(LocalAuditBackend, "_letter_logits", None)
    assert_same(backend.answer([variants()[n] for n in prefilled]), [expected[n] for n in prefilled])


@pytest.mark.parametrize("done", [range(10), range(5), (0, 1, 7), (2, 4, 6, 8)])
def test_a_resumed_call_leaves_out_what_is_done_and_gives_the_rest_bit_by_bit(policy, done):
    """So do the prefills after prompts that the earlier, interrupted call has computed."""
    prefilled = [replace(variant, name=f"{variant.name}-2") for variant in variants() if variant.prefix]
    straight, resumed = local(policy, rows=2), local(policy, rows=2)
    expected = straight.answer(variants())
    again = dict(pair for pairs in resumed.iterate(variants(), done) for pair in pairs)
    assert again.keys() >= set(range(10)) - set(done)
    assert all(answer == expected[index] for index, answer in again.items())
    assert resumed.answer(prefilled) == straight.answer(prefilled)


def test_a_batch_that_is_done_is_not_generated_again(policy, monkeypatch):
    lengths = []
    plain = type(policy.model).generate

    def generate(self, *arguments, **given):
        lengths.append(given["generation_config"].max_new_tokens)
        return plain(self, *arguments, **given)

    monkeypatch.setattr(type(policy.model), "generate", generate)
    local(policy, rows=2).answer(variants())
    whole = lengths.copy()
    lengths.clear()
    assert list(local(policy, rows=2).iterate(variants(), range(10))) == []
    # One token each, for the KV caches.
    assert (set(whole), set(lengths)) == ({TOKENS}, {1})
    assert len(lengths) < len(whole)


def votes(name, seeds):
    fields = {"sample": sample(name), "images": picture(30), "temperature": 1.0}
    return [Variant(name=f"vote-{seed}", seed=seed, **fields) for seed in seeds]


def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_neighbours(policy):
    backend = local(policy)
    alone = backend.answer(votes("one", [3]))
    among = backend.answer([*variants(), *votes("one", [1, 2, 3, 4]), *votes("two", [3])])
    texts = [answer.text for answer in among[-5:-1]]
    assert texts[2] == alone[0].text
    assert len(set(texts)) == 4
    greedy = backend.answer(variants())
    assert [answer.text for answer in among[: len(greedy)]] == [answer.text for answer in greedy]


def test_a_server_samples_each_item_in_one_request_with_its_own_seed(server):
    plain = [variant for variant in variants() if not variant.prefix]
    Vllm(text="<think>x</think><answer>B</answer>").serve(server)
    backend = open_audit_backend(f"openai:{server.url}#m", "medvlm-r1", 20, 2)
    answers = backend.answer([*votes("one", [7, 8]), *plain, *votes("two", [7, 8])])
    greedy, sampled = ([request for request in server.requests if request["temperature"] == t] for t in (0, 1))
    assert (len(greedy), [request["n"] for request in sampled]) == (len(plain), [2, 2])
    assert len({request["seed"] for request in sampled}) == 2
    assert {answer.letter for answer in answers} == {"B"}
    assert answers[2].option == "kidney"


def test_equal_variants_are_one_request(server):
    [first, *others] = variants()[2:3] * 3
    same = [first, *(replace(variant, name=f"again-{index}") for index, variant in enumerate(others))]
    Vllm().serve(server)
    backend = open_audit_backend(f"openai:{server.url}#m", "medvlm-r1", 20, 2)
    assert backend.refusal(first) == ""
    before = len(server.requests)
    answers = backend.answer(same)
    assert len(server.requests) == before + 1
    assert len({answer.probabilities for answer in answers}) == 1


def test_the_family_decides_the_backend_of_a_policy(policy, monkeypatch):
    assert isinstance(local_audit_backend(policy, template="medvlm-r1", max_new_tokens=4), LocalAuditBackend)
    monkeypatch.setattr(policy.model.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    other = local_audit_backend(policy, template="medvlm-r1", max_new_tokens=4)
    assert isinstance(other, GeneratorAuditBackend)


def test_a_model_is_loaded_for_its_first_answer(tmp_path):
    lazy = open_audit_backend(str(tmp_path / "absent"), "medvlm-r1", 4, 1)
    assert lazy.answer([]) == []
    with pytest.raises(UserError, match="No model folder"):
        lazy.answer(variants())


def test_a_malformed_name_of_a_server_is_an_error():
    with pytest.raises(UserError, match="wanted openai:URL#NAME"):
        open_audit_backend("openai:localhost", "medvlm-r1", 4, 1)
