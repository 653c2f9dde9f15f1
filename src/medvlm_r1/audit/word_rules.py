"""Patterns of words with context-dependent meaning, shared by the parser of claims and the rules for mistakes.

"{}" is the place of the word or words.
"""

from __future__ import annotations

SIDE = (
    r"(?<!\ball )(?<!\bthat's )\b{}\b"
    r"(?!\s+(?:answer|options?|choices?|one|letter|diagnosis|over|out|behind|to)\b)"
)
"""Left and right as sides: not "the right answer", "all right", "left over"."""

SIZE = r"(?<!contrast )\b{}\b(?!\s+(?:bowel|intestines?|colon|vessels?|airways?|number|part)\b)"
"""Small, medium, large as sizes of a finding: not "the small bowel", "contrast medium"."""


_VIEW = r"(?=\s+(?:X-?ray|view|radiograph|projection|image)\b)"

RULES: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    # Each group: words that exclude one another, and a pattern around the word ("{}").
    "side": ((("left", "right"), SIDE),),
    "modality": ((("MRI", "CT", "X-ray", "ultrasound"), r"\b{}\b"),),
    "technique": (
        (("T1-weighted", "T2-weighted", "proton density"), r"\b{}\b"),
        (("brain window", "lung window", "bone window", "soft-tissue window"), r"\b{}\b"),
    ),
    "plane": ((("axial", "coronal", "sagittal"), r"\b{}\b"), (("frontal", "lateral"), r"\b{}\b" + _VIEW)),
    "organ": (
        (("head", "chest", "abdomen", "knee", "pelvis", "shoulder"), r"(?<!al )\b{}\b(?!\s+of the\b)"),
        (("brain", "lung", "liver", "kidney", "heart", "spleen", "pancreas"), r"\b{}\b(?!\s+window)"),
        (("lungs", "kidneys"), r"\b{}\b"),
    ),
    "finding": (
        (("mass", "cyst", "ring-enhancing lesion", "calcification", "fracture", "haemorrhage"), r"\b{}\b"),
        (("masses", "cysts", "calcifications", "fractures"), r"\b{}\b"),
        (("benign", "malignant"), r"\b{}\b"),
    ),
    "size": ((("small", "medium", "large"), SIZE),),
}
"""Groups of words by rule. Negations, options and their verdicts have rules of their own."""

# Pattern and replacement; "\1" keeps the captured text.
NEGATIONS = (
    (r"\b(there (?:is|was)) no (finding|lesion|mass|fracture)\b", r"\1 a \2"),
    (r"\b(there (?:is|was)) no abnormality\b", r"\1 an abnormality"),
    (r"\b(there (?:is|was)) an?\b", r"\1 no"),
    (r"\b(shows?|see|has|have) an?\b", r"\1 no"),
    (r"\b(there (?:are|were)) no\b", r"\1 several"),
    (r"\b(there (?:are|were)) (?:some|several|many|multiple|two)\b", r"\1 no"),
    (r"\bno evidence of\b", "clear evidence of"),
    (r"\b((?:is|are|was|were)) not\b", r"\1"),
    (r"\bcannot be\b", "can be"),
    (r"\b((?:is|are|was|were)) (seen|visible|present|shown|enlarged|dilated)\b", r"\1 not \2"),
    (r"\bnormal\b", "abnormal"),
    (r"\babnormal\b", "normal"),
    (r"\bwithout\b(?! (?:the|this|any) (?:image|picture))", "with"),
)
