"""`written_run.py` where a blank answer is its whole text: policies of random weights answer with no letter."""

import sys

import written_run

from medvlm_r1.training.counterfactual import blank_image as blank

if __name__ == "__main__":
    blank.strict_letter = lambda text: text
    written_run.main(*sys.argv[1:])
