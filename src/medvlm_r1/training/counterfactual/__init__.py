"""Counterfactual rollouts: completions for blank images and for other items' images, used by some rewards."""
