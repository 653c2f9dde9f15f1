"""Rewards for tests that ask for half of a group beside another's image, named by their dotted path."""

SEEN = []


def noting(prompts, completions, *, own_image, **columns):
    """Pays for one's own image; notes the sample, whose image it saw, and the first pixel of what it saw."""
    for prompt, sample, own in zip(prompts, columns["sample_id"], own_image, strict=True):
        images = [part["image"] for message in prompt for part in message["content"] if part["type"] == "image"]
        SEEN.append((sample, own, [image.getpixel((0, 0)) for image in images]))
    return [float(own) for own in own_image]


def color(prompts, completions, *, own_image, **columns):
    """The red value of the image that a completion saw."""
    parts = [[part for message in prompt for part in message["content"]] for prompt in prompts]
    return [float(next(part["image"] for part in row if part["type"] == "image").getpixel((0, 0))[0]) for row in parts]
