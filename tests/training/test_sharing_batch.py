"""What the trainer that shares prompts keeps of a batch."""

from types import SimpleNamespace
from unittest.mock import Mock

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvlm_r1.models.sharing.batch import FeatureStore, SharedBatch, distinct, images_key, joined, processed
from medvlm_r1.training.grpo import SharedPromptTrainer


def test_runs_of_equal_prompts_are_found():
    red, also_red, blue = (Image.new("RGB", (4, 4), color) for color in ("red", "red", "blue"))
    with_images = [
        [{"role": "user", "content": [{"type": "image", "image": image}]}] for image in (red, also_red, blue)
    ]
    other = [[{"role": "user", "content": [{"type": "text", "text": "x"}]}]]
    # The same words on another image are another prompt; a prompt that comes back later is a run of its own.
    assert distinct([*with_images, *other, *other, with_images[0]]) == ([0, 2, 3, 5], [0, 0, 1, 2, 2, 3])


def test_pictures_of_other_palettes_are_other_pictures():
    first, other, same = (Image.new("P", (4, 4), 0) for _ in range(3))
    first.putpalette([10, 20, 30])
    other.putpalette([30, 20, 10])
    same.putpalette([10, 20, 30])
    assert first.tobytes() == other.tobytes()
    assert images_key([first]) == images_key([same]) != images_key([other])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 9))
def test_shuffling_keeps_groups_together(sizes, seed):
    owner = [number for number, size in enumerate(sizes) for _ in range(size)]
    prompts = tuple(processed([number], None, {}, "cpu") for number in range(len(sizes)))
    batch = SharedBatch(prompts=prompts, owner=tuple(owner))
    torch.manual_seed(seed)
    order = batch.shuffled()
    assert sorted(order) == list(range(len(owner)))
    ordered, lengths = batch.take(order).groups()
    assert sorted(zip((prompt.ids[0] for prompt in ordered), lengths, strict=True)) == list(enumerate(sizes))


def test_every_order_of_groups_is_drawn():
    prompts = tuple(processed([number], None, {}, "cpu") for number in range(3))
    batch = SharedBatch(prompts=prompts, owner=(0, 0, 1, 1, 2, 2))
    torch.manual_seed(0)
    orders = [tuple(batch.shuffled()) for _ in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    # Six orders of the groups, eight of the rows within.
    assert len(counts) == 48
    assert max(counts) < 4 * min(counts) + 12


def test_vision_inputs_are_joined_in_order_and_filled_up():
    first = processed([1, 2], ["a"], {"pixel_values": torch.ones(1, 2, 3), "token_type_ids": [[0, 1]]}, "cpu")
    none = processed([3], None, {}, "cpu")
    two = processed([4], ["b"], {"pixel_values": torch.full((1, 1, 3), 2.0)}, "cpu")
    fields = joined([first, none, two], token_types=True)
    assert fields["token_type_ids"] == [[0, 1], [0], [0]]
    assert fields["pixel_values"][:, :, 0].tolist() == [[1, 1], [2, 0]]
    assert "token_type_ids" not in joined([first, two])


def test_features_are_kept_within_their_budget():
    images = [Image.new("RGB", (2, 2), color) for color in ("red", "green", "blue")]
    prompts = [processed([0], [image], {}, "cpu") for image in images]
    features = {prompt.key: [(torch.full((250, 1), float(number)),)] for number, prompt in enumerate(prompts)}
    encode = Mock(side_effect=lambda prompt: features[prompt.key])
    store = FeatureStore(0.002)  # two thousand bytes: two of the three
    store.get(prompts[:2], encode, "cpu")
    store.get(prompts[:1], encode, "cpu")
    entries = store.get([prompts[2], processed([0], None, {}, "cpu"), prompts[0]], encode, "cpu")
    assert [float(entry[0][0, 0]) for entry in entries] == [2, 0]
    assert len(store) == 2
    assert encode.call_count == 3
    store.get(prompts[1:2], encode, "cpu")
    assert encode.call_count == 4


def test_rows_with_images_keep_the_towers_optimizer_going():
    def moving(*, advantages, images, learns=True, beta=0.0):
        prompts = tuple(
            processed([n], [Image.new("L", (2, 2), n)] if first else None, {}, "cpu") for n, first in enumerate(images)
        )
        inputs = {
            "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]]),
            "advantages": torch.tensor(advantages),
            "shared": SharedBatch(prompts=prompts, owner=(0, 1, 2, 3)),
        }
        trainer = SimpleNamespace(
            beta=beta, _entropy_bonus_enabled=False, top_entropy_quantile=1.0, loss_type="grpo", _tower_learns=learns
        )
        entries = SharedPromptTrainer._moving(trainer, inputs).tolist()
        return entries

    yes, no = True, False
    mixed = [yes, yes, no, no]
    assert moving(advantages=[1, 0, 1, 1], images=mixed) == [yes, no, yes, no]
    # Only a row of text would be computed: the tower would be without a gradient of 0, so the shorter image stays.
    assert moving(advantages=[0, 0, 1, 1], images=mixed) == [no, yes, yes, no]
    assert moving(advantages=[0, 0, 1, 1], images=mixed, learns=False) == [no, no, yes, no]
    assert moving(advantages=[0, 0, 1, 1], images=[no, no, no, no]) == [no, no, yes, no]
    assert moving(advantages=[0, 0, 0, 0], images=[yes, yes, yes, no]) == [no, yes, no, yes]
    assert moving(advantages=[0, 0, 0, 0], images=[yes, yes, yes, yes]) == [no, no, no, yes]
    assert moving(advantages=[0, 0, 0, 0], images=mixed, beta=0.04) == [yes, yes, yes, no]
