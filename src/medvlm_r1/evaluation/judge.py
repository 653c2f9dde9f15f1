"""A model on a server that judges answers to open questions, and its agreement with the rules.

The rules of `rewards.open_questions` decide the scores. A judge is asked only if the user names one. It may be wrong,
so its verdicts are reported next to the scores and change none of them.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from medvlm_r1.errors import UsageError
from medvlm_r1.evaluation.score import Graded, share
from medvlm_r1.models.generate import GenerationInput, GenerationSettings
from medvlm_r1.models.remote import ServerPool, is_server, server_generators
from medvlm_r1.prompts.parser import conclusion_text

REQUEST = """Compare an answer to a question about a medical image with the reference answer.
Question: {question}
Reference answer: {reference}
Answer: {answer}
Do both mean the same? A wrong side, a wrong negation or a guess between alternatives is not the same.
Reply with yes or no only."""
LONGEST = 1000
"""Characters of an answer that the judge reads."""
SETTINGS = GenerationSettings(max_new_tokens=1024)
_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def check_judge(judge: str) -> None:
    """Raise a `UsageError` if a judge is not named `openai:URL#NAME`."""
    if not is_server(judge):
        raise UsageError(f"--judge is {judge!r}; wanted a model on a server, openai:URL#NAME")


def judge_open(
    judge: str, graded: Sequence[Graded], *, concurrency: int = 8, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Ask a judge whether the answers mean the same as the references.

    Args:
        judge: `openai:URL#NAME`.
        graded: At least one graded answer to an open question. Those without an answer are not sent and count as wrong.
        concurrency: Maximum number of concurrent requests.
        progress: Called with the number of judged answers and the total.

    Returns:
        `model`; `correct`, the share of answers that the judge accepts; `agreement`, the share of equal verdicts of
        judge and rules (a score of 1 or not); `only_judge` and `only_rules`, the numbers of answers that one of them
        accepts; and `unparsed`, the number of replies with neither or both of yes and no, which are in no share.

    Raises:
        UserError: The server does not reply.
    """
    answered = [index for index, entry in enumerate(graded) if entry.answered]
    inputs = [_request(graded[index]) for index in answered]
    verdicts: dict[int, bool | None] = dict.fromkeys(range(len(graded)), False)
    pool = ServerPool(servers=tuple(server_generators(judge, concurrency)))
    done = 0
    for replies in pool.iterate(inputs, SETTINGS):
        verdicts |= {answered[position]: parse_verdict(reply.text) for position, reply in replies}
        done += len(replies)
        if progress is not None:
            progress(done, len(inputs))
    rows = [(verdict, graded[index]) for index, verdict in verdicts.items() if verdict is not None]
    clusters = [entry.sample.cluster for _, entry in rows]
    return {
        "model": judge,
        "correct": share([verdict for verdict, _ in rows], "correct", clusters),
        "agreement": share([verdict == entry.correct for verdict, entry in rows], "equal", clusters),
        "only_judge": sum(verdict and not entry.correct for verdict, entry in rows),
        "only_rules": sum(entry.correct and not verdict for verdict, entry in rows),
        "unparsed": len(graded) - len(rows),
    }


def _request(entry: Graded) -> GenerationInput:
    text = REQUEST.format(
        question=entry.sample.question, reference=entry.sample.answer, answer=(entry.response.answer or "")[:LONGEST]
    )
    return GenerationInput(prompt=[{"role": "user", "content": [{"type": "text", "text": text}]}])


def parse_verdict(text: str) -> bool | None:
    """The verdict in a reply, after any reasoning: True for yes; None if it has neither or both of yes and no."""
    words = {word.casefold() for word in _WORD.findall(conclusion_text(text))}
    return words == {"yes"} if len(words) == 1 else None
