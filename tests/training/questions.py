"""Small data folders for trainings."""

import torch
from PIL import Image

from medvlm_r1.data.folder import write_folder
from medvlm_r1.data.sample import Sample


def noise(width, height, seed):
    """An image of random pixels."""
    pixels = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def write_questions(folder, images, **fields):
    """Write a data folder with one question per list of images; their texts have unequal lengths.

    Args:
        folder: An existing folder.
        images: Images of each question.
        fields: Fields of `Sample` with one value per question, instead of those below.
    """
    (folder / "images").mkdir()
    samples = []
    for index, pictures in enumerate(images):
        names = [f"images/{index}-{number}.png" for number in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            picture.save(folder / name)
        given = {
            "id": f"q{index}",
            "question": "Which organ is shown?" + " Is there a lesion?" * (index % 3),
            "options": ("liver", "kidney"),
            "answer": "liver",
            "modality": "MRI",
        }
        given |= {name: values[index] for name, values in fields.items()}
        samples.append(Sample(images=tuple(names), **given))
    write_folder(folder, samples, info={"name": "made", "source": "made by the tests", "license": "CC0-1.0"})
    return folder


def write_mixed(folder):
    """Write eight questions with 0, 2, 0, 1, 0, 0, 2 and 1 images; A, B, C and D are right twice each."""
    organs = ("liver", "kidney", "brain", "knee")
    images = [
        [Image.new("RGB", (40 + 16 * number, 30), (25 * index, 90, 160)) for number in range(count)]
        for index, count in enumerate((0, 2, 0, 1, 0, 0, 2, 1))
    ]
    texts = ["Which organ is shown?" + " Now?" * index for index in range(8)]
    return write_questions(folder, images, question=texts, options=[organs] * 8, answer=organs * 2)
