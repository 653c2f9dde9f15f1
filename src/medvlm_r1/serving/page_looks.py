"""The second look of the reader page: the same question put to the model in four other ways.

What each way is, and what its answer says, stands in `medvlm_r1.serving.page_second_look`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from PIL import ImageOps
from PIL.Image import Image

from medvlm_r1.audit.probes.letter_bias import shifted
from medvlm_r1.data.blank import blank_like
from medvlm_r1.data.images import Picture
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import CaseLook, CaseReply, shares
from medvlm_r1.serving.answer import Answer, Question
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page_ask import Asked, case_reply, heard, named
from medvlm_r1.serving.page_second_look import NO_REASONING_TURN, TITLES, WAYS, Heard, Way, judge

_LOOK_SIDE = 256


def second_look(model: MedVLM, asked: Asked) -> Iterator[Asked]:
    """Ask again in the other ways; the case grows by one look each time.

    Raises:
        UserError: As `MedVLM.ask`.
    """
    picture = model.prepare(asked.question).pictures[0]
    looks: tuple[CaseLook, ...] = ()
    for way in WAYS:
        looks = (*looks, _look(model, asked, way, picture))
        yield replace(asked, case=replace(asked.case, looks=looks))


def _look(model: MedVLM, asked: Asked, way: Way, picture: Picture) -> CaseLook:
    question, options = asked.question, tuple(asked.question.options)
    shown: Image | None = None
    again, how = replace(question, image=picture.image, frame=None, plane=None, slice=None, window=None), ""
    match way:
        case "blank":
            shown, how = blank_like(picture.image), "The same question with a grey picture that shows nothing."
        case "mirrored":
            shown, how = (
                ImageOps.mirror(picture.image),
                "The same question with left and right exchanged in the picture.",
            )
        case "shifted":
            if not options:
                return _not_asked(way, "An open question has no options to shift.")
            again = replace(again, options=shifted(options, 1))
            how = "The first option moved to the end, so that each stands under another letter."
        case "no reasoning":
            if not options:
                return _not_asked(
                    way, "An open question is not asked without reasoning: there are no letters to weigh."
                )
            return _without_reasoning(model, asked, again)
    if shown is not None:
        again = replace(again, image=shown)
    return _judged(asked, way, how, model.ask_batch([again])[0], again.options, shown)


def _without_reasoning(model: MedVLM, asked: Asked, again: Question) -> CaseLook:
    """The letters weighed after an empty reasoning; where they cannot be, the letter alone asked for."""
    options = tuple(again.options)
    found = model.backend.letters([model.prepare(again).item], [NO_REASONING_TURN], [len(options)])
    if found is None:
        [answer] = model.ask_batch([replace(again, template="answer-only")])
        said = heard(answer, options)
        reply = CaseReply(reasoning=None, answer=named(said), raw=None if said.text else answer.text)
        how = "The request for the letter alone: the letters cannot be weighed here as they are without reasoning."
    else:
        probabilities = dict(zip(options, found[0], strict=True))
        option = max(options, key=probabilities.__getitem__)
        said = Heard(LETTERS[options.index(option)], option)
        bars = shares(options, said.letter, probabilities)
        reply = CaseReply(reasoning=None, answer=named(said), raw=None, shares=bars)
        how = "The reasoning left empty, and the most probable letter taken."
    return _look_of(asked, "no reasoning", how, said, reply, None)


def _judged(asked: Asked, way: Way, how: str, answer: Answer, options: Sequence[str], shown: Image | None) -> CaseLook:
    return _look_of(asked, way, how, heard(answer, options), case_reply(answer, options), shown)


def _look_of(asked: Asked, way: Way, how: str, again: Heard, reply: CaseReply, shown: Image | None) -> CaseLook:
    question, options = asked.question.question, asked.question.options
    verdict = judge(way, heard(asked.answer, options), again, question=question, options=options)
    return CaseLook(
        title=TITLES[way],
        how=how,
        image=None if shown is None else picture_uri(shown, _LOOK_SIDE),
        reply=reply,
        verdict=verdict.sentence,
        tone=verdict.tone,
    )


def _not_asked(way: Way, reason: str) -> CaseLook:
    return CaseLook(title=TITLES[way], how="Not asked.", image=None, reply=None, verdict=reason, tone="plain")
