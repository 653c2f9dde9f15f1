"""One PhantomVQA question in the variants of the audit, made by the probes themselves."""

from __future__ import annotations

import numpy as np
from PIL import Image
from svg_parts import BLUE, LINE, PALE, box, drawing, picture, words

from medvlm_r1.audit.collect import item_seed
from medvlm_r1.audit.backends import open_audit_backend
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.probes.cue import IMAGE, TEXT
from medvlm_r1.audit.probes.prefixes import FILLER, MISTAKE
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.audit.variant import Variant
from medvlm_r1.phantom.benchmark import to_sample
from medvlm_r1.phantom.questions import ask
from medvlm_r1.phantom.scene import render
from medvlm_r1.prompts.templates import lettered

_SEEDS = ((9, 12), (9, 28))
_SIZE = 138


def audit_picture() -> str:
    """Return the drawing."""
    drawn = [ask("MRI", seed, np.random.default_rng(seed)) for seed in _SEEDS]
    image, other = (Image.fromarray(render(one.scene)).convert("RGB") for one in drawn)
    sample = to_sample(drawn[0], "test", 0)
    asked = ProbeInput(sample=sample, images=(image,), others=(other,), seed=item_seed(sample), template="medvlm-r1")
    real = Variant(name="real", sample=sample, images=(image,))
    [answer] = open_audit_backend("phantom-base", "medvlm-r1", 80, 1).answer([real])
    made = {one.name: one for probe in PROBES.values() for one in (*probe.first(asked), *probe.then(asked, answer))}
    pictures = [
        ("original", real),
        ("gray", made["blank"]),
        ("noise", made["noise"]),
        ("another item's", made["shuffled"]),
        ("absent", made["absent"]),
        ("with a drawn hint", made[IMAGE]),
    ]
    parts = [words(16, 28, "The image", font_weight="bold", fill=BLUE)]
    for place, (name, variant) in enumerate(pictures):
        x = 16 + place * 157
        shown = [picture(x, 40, _SIZE, one) for one in variant.images]
        parts += shown or [box(x, 40, _SIZE, _SIZE, fill="#fff")]
        parts.append(words(x, 40 + _SIZE + LINE, name, fill=PALE))
    written = answer.text.split("<think>")[-1].split("</think>")[0].strip()
    cut = made["cut-2"]
    mistake = made[MISTAKE]
    boxes = [
        ("The question", lettered(sample)),
        ("Options shifted", lettered(made["shift-1"].sample)),
        ("Wrong hint in the text", lettered(made[TEXT].sample)),
        ("The reasoning", written),
        (
            f"Description cut after {cut.note['sentences']} of {cut.note['of']} sentences",
            _inside(cut) + " ... then force the answer",
        ),
        ("One sentence made wrong", f"{mistake.note['before']}\nbecomes\n{mistake.note['after']}\n... then continue"),
        ("Dots instead of the reasoning", _inside(made[FILLER])),
        ("Five samples", "the same question five times at temperature 1: do the votes agree?"),
        ("Letter probabilities", "the probability of each letter at the answer: how confident is the model?"),
    ]
    top, high, wide = 214, 132, 304
    for place, (name, text) in enumerate(boxes):
        x, y = 16 + place % 3 * (wide + 8), top + place // 3 * (high + 8)
        parts += [
            box(x, y, wide, high),
            words(x + 10, y + 20, name, font_weight="bold", fill=BLUE),
            words(x + 10, y + 40, text, wide=46, most=6),
        ]
    return drawing(960, top + 3 * (high + 8) + 8, "One question as the audit asks it", parts)


def _inside(variant: Variant) -> str:
    return variant.prefix.split("<think>")[-1].split("</think>")[0].strip()
