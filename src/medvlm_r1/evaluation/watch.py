"""Periodic evaluation on held-out questions during training, with the real images and with blank images.

A training callback logs the metrics with the prefix `eval_`. `metrics.jsonl`, TensorBoard and the report's curves then
have `eval_accuracy` and `eval_blank_accuracy`. If the gap between the two shrinks, the policy is learning to ignore the
image, even if accuracy rises (`training.guards` watches the gap).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.images.picture import blank_like
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
    """Held-out evaluation on a data folder, with greedy answers. It is an `Evaluate` function for `training.callbacks`.

    Open questions (no options) are excluded: they have no strict answer and no chance level.

    The metrics, in percent except for the counts:

    * `accuracy`: strict accuracy, averaged over the modalities;
    * `accuracy_<modality>` and `questions_<modality>`: strict accuracy of one modality, and its number of questions;
    * `blank_accuracy`: `accuracy` with every image replaced by a mid-gray image of the same size; absent if no question
      has an image;
    * `well_formed`: answers in the format of the MedVLM-R1 release;
    * `contradiction`: answers that contradict their own reasoning (see `contradiction` in this module), with the real
      images; absent if no answer can be judged.

    Each evaluation generates two completions per question.
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
        """Read the questions and decode their images. All evaluations reuse them.

        Args:
            folder: The data folder.
            template: Name of the prompt template.
            max_new_tokens: Token limit; longer answers are truncated.
            batch_size: Number of questions per batch.
            fit: Image size check; questions with an image that fails it are excluded. None excludes no question.

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
        """Compute the metrics of the policy. In distributed training, each process answers a share of the questions."""
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
    """Generate answers to all questions, divided among the processes; every process gets all answers, in order."""
    state = PartialState()
    share = range(state.process_index, len(questions), state.num_processes)
    answers = generator.generate([questions[index] for index in share], settings)
    gathered: dict[int, Generation] = dict(gather_object(list(zip(share, answers, strict=True))))
    return [gathered[index] for index in range(len(questions))]


def contradiction(samples: Sequence[Sample], answers: Sequence[Generation], template: str) -> float | None:
    """Percent of answers that contradict their own reasoning.

    Only answers with a letter whose reasoning concludes an option (`prompts.conclusion`) are counted. None if there are
    no such answers.
    """
    verdicts = []
    for sample, answer in zip(samples, answers, strict=True):
        response = grade(sample, answer, template).response
        verdicts.append(contradicts(response.reasoning, response.letter, sample.options))
    judged = [verdict for verdict in verdicts if verdict is not None]
    return 100 * sum(judged) / len(judged) if judged else None
