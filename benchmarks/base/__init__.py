"""The embedded base: its pool of images, its architecture, and the stages by which it is trained."""
