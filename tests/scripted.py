"""Distinct questions, and a generator that answers them by script."""

from medvlm_r1.data.sample import Sample
from medvlm_r1.models.generate import Generation

OPTIONS = ("liver", "kidney", "brain")


class Scripted:
    """Answers with what `reply` makes of the prompt; stops like a key press after `stop_after` batches."""

    def __init__(self, reply, stop_after=None):
        self.reply = reply
        self.stop_after = stop_after
        self.batches = []

    def generate(self, items, settings):
        if self.stop_after is not None and len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        prompts = [item.prompt[0]["content"][-1]["text"] for item in items]
        self.batches.append([prompt.splitlines()[0] for prompt in prompts])
        texts = [self.reply(prompt) for prompt in prompts]
        return [Generation(text=text, n_tokens=9, truncated=text.endswith("...")) for text in texts]


def tagged(letter):
    """A well formed answer."""
    return f"<think>It looks so.</think><answer>{letter}</answer>"


def make_samples(n=6):
    """Half MRI, half CT; the right answer is always A; two items per subject."""
    samples = []
    for i in range(n):
        fields = {"options": OPTIONS, "answer": OPTIONS[0], "modality": "MRI" if i < n / 2 else "CT"}
        fields |= {"question_type": "Anatomy Identification" if i % 2 else "", "subject": f"patient{i // 2}"}
        samples.append(Sample(id=f"q{i}", images=(f"images/{i}.png",), question=f"Question {i}?", **fields))
    return samples
