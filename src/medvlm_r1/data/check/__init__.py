"""Data checks: unusable samples, duplicates, and leakage between the parts of a data set."""

from medvlm_r1.data.check.findings import (
    BadImage,
    BadRow,
    Copies,
    Listed,
    NearPair,
    Part,
    Place,
    Question,
    SharedSubject,
    Sharing,
    Touched,
)
from medvlm_r1.data.check.result import Check
from medvlm_r1.data.check.run import check_folders

__all__ = [
    "BadImage",
    "BadRow",
    "Check",
    "Copies",
    "Listed",
    "NearPair",
    "Part",
    "Place",
    "Question",
    "SharedSubject",
    "Sharing",
    "Touched",
    "check_folders",
]
