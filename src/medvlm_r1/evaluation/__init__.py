"""Generate with a store that survives interruption, score, and compare on the same items."""
