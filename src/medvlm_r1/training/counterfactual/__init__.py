"""Counterfactual rollouts: answers to blank images and to the images of other items, for rewards that need them."""
