"""Periodic evaluation on held-out questions during training, with their images and with blank ones.

A training callback logs the figures with the prefix `eval_`. `metrics.jsonl`, TensorBoard and the report's curves then
have `eval_accuracy` and `eval_blank_accuracy`. If the gap between the two shrinks, the run learns to ignore the image,
even if accuracy rises (`training.guards` watches the gap).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.images.blank import blank_like
from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.score import grade, score
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy
from medvlm_r1.models.processor import ImageFit
from medvlm_r1.prompts.conclusion import contradicts
from medvlm_r1.prompts.templates import messages


class HeldOut:
    """The `Evaluate` of `training.callbacks` for a data folder; every answer is greedy.

    Open questions (no options) are excluded: they have no strict answer and no chance level.

    The figures, in percent except for the counts:

    * `accuracy`: strict, the mean over the modalities; `accuracy_<modality>` for each, and `questions_<modality>`, the
      number of questions, for the interval;
    * `blank_accuracy`: the same with every image replaced by a mid-gray one of its size; absent where no question has
      an image;
    * `well_formed`: answers in the release's format;
    * `contradiction`: answers to the real images whose reasoning concludes another option than is answered
      (`prompts.conclusion`), among those that conclude and answer; absent where none does.

    Each evaluation costs two completions per question.
    """

    def __init__(
        self,
        folder: Path,
        *,
        template: str = "medvlm-r1",
        max_new_tokens: int = 512,
        batch_size: int = 32,
        fit: ImageFit | None = None,
    ) -> None:
        """Read the questions and decode their images, once.

        Args:
            folder: The data folder.
            template: Name of the prompt template.
            max_new_tokens: Longer answers are cut off.
            batch_size: Questions answered at once.
            fit: Excludes questions with an image that it refuses; None excludes none.

        Raises:
            UserError: The folder or an image cannot be read, or no question has options.
        """
        closed = [sample for sample in read_folder(folder) if sample.options]
        if not closed:
            raise UserError(f"{folder}: no question has options, so there is no accuracy; name another data.eval")
        self.samples: list[Sample] = []
        self.inputs: list[GenerationInput] = []
        for sample in closed:
            images = [load_image(inside(folder, image)) for image in sample.images]
            if fit is None or not any(fit(image.size) for image in images):
                self.samples.append(sample)
                self.inputs.append(GenerationInput(prompt=messages(sample, template), images=images))
        self.blanks = [replace(item, images=[blank_like(image) for image in item.images]) for item in self.inputs]
        self._template = template
        self._settings = GenerationSettings(max_new_tokens=max_new_tokens)
        self._batch_size = batch_size

    def __call__(self, policy: Policy, step: int) -> Mapping[str, float]:
        """The figures of the current policy. Under a launcher, each process answers its share of the questions."""
        questions = [*self.inputs, *(self.blanks if any(item.images for item in self.inputs) else [])]
        answers = _answers(LocalGenerator(policy=policy, batch_size=self._batch_size), questions, self._settings)
        answers, blind = answers[: len(self.inputs)], answers[len(self.inputs) :]
        figures = score(self.samples, answers, self._template)
        result = {"accuracy": figures["accuracy"].pop("mean"), "well_formed": figures["well_formed"]["percent"]}
        for name, accuracy in figures["accuracy"].items():
            result |= {f"accuracy_{name}": accuracy["percent"], f"questions_{name}": accuracy["n"]}
        if blind:
            result["blank_accuracy"] = score(self.samples, blind, self._template)["accuracy"]["mean"]
        share = contradiction(self.samples, answers, self._template)
        return result if share is None else result | {"contradiction": share}


def _answers(
    generator: LocalGenerator, questions: Sequence[GenerationInput], settings: GenerationSettings
) -> list[Generation]:
    """Answers to all questions in order, on every process."""
    state = PartialState()
    share = range(state.process_index, len(questions), state.num_processes)
    answers = generator.generate([questions[index] for index in share], settings)
    gathered: dict[int, Generation] = dict(gather_object(list(zip(share, answers, strict=True))))
    return [gathered[index] for index in range(len(questions))]


def contradiction(samples: Sequence[Sample], answers: Sequence[Generation], template: str) -> float | None:
    """Percent of answers that contradict their reasoning, of those that conclude and answer; None for none."""
    verdicts = []
    for sample, answer in zip(samples, answers, strict=True):
        response = grade(sample, answer, template).response
        verdicts.append(contradicts(response.reasoning, response.letter, sample.options))
    judged = [verdict for verdict in verdicts if verdict is not None]
    return 100 * sum(judged) / len(judged) if judged else None
