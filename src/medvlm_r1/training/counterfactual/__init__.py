"""Rollouts with a blank image or with the image of another item, for rewards that need them."""
