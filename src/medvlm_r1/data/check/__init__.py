"""Data checks: unusable samples, duplicates, and leakage between the parts of a data set."""

from medvlm_r1.data.check.findings import Check
from medvlm_r1.data.check.run import check_folders, warn_of_overlap

__all__ = ["Check", "check_folders", "warn_of_overlap"]
