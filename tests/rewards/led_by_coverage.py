"""Completions that atheris makes, each new one led by what the last ones reached in the parser and the rewards.

    python led_by_coverage.py [libFuzzer options]

Ends with 0 when nothing was found in the time given.
"""

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["medvlm_r1.prompts", "medvlm_r1.rewards", "medvlm_r1.data.sample"]):
    import test_adversarial as adversarial


def attempt(data):
    """A completion of tags, letters and any text from the bytes, held against what holds of all."""
    given = atheris.FuzzedDataProvider(data)
    letter = given.PickValueInList([*adversarial.LETTERS, ""])
    blank = given.PickValueInList([*adversarial.LETTERS, None])
    options = [given.ConsumeUnicode(8) for _ in range(given.ConsumeIntInRange(0, 4))]
    parts = []
    while given.remaining_bytes() and len(parts) < 64:
        known = given.ConsumeBool()
        parts.append(given.PickValueInList(adversarial.PIECES) if known else given.ConsumeUnicode(6))
    adversarial.check("".join(parts), letter, blank, options or list(adversarial.OPTIONS))


if __name__ == "__main__":
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()
