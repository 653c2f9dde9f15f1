"""Audit runner: collect the answers to all variants of all probes, and compute the verdicts.

Every probe defines the variants of an item that it needs. The variants of all probes are answered together and stored
(`audit.store`), so the same command resumes an interrupted audit. All figures in the report are pure functions of the
answers.
"""

import hashlib
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from medvlm_r1.audit.backends import open_audit_backend
from medvlm_r1.audit.collect import Answers, audited, collect_responses, even_parts, partners, probe_input
from medvlm_r1.audit.measures import too_few
from medvlm_r1.audit.probe import Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.registry import QUESTIONS, choose_probes
from medvlm_r1.audit.store import REUSED, AuditStore, EvaluationAnswers, StoredItem
from medvlm_r1.audit.variant import REAL, AuditBackend, AuditedItem, item_seed, means
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.run import OF_AN_EVALUATION, identify, provenance, refuse_other_folder, require_positive
from medvlm_r1.evaluation.statistics import FEWEST_SUBJECTS
from medvlm_r1.evaluation.store import Row, answer_key, load_row_images, present_rows, write_results
from medvlm_r1.models.generate import GenerationSettings
from medvlm_r1.models.load import image_fit
from medvlm_r1.models.remote import is_server
from medvlm_r1.prompts.boxes import BOX_TEMPLATES

Progress = Callable[[int, int | None], None]
FIGURES = "audit.json"
ITEMS_AT_ONCE = 128
"""Default number of questions in a batch of a local model. A batch contains all variants of its questions."""
REQUESTS = 32
"""Default number of concurrent requests to a server."""


def audit_model(
    model: str,
    data_dir: Path | str,
    out: Path | str,
    *,
    probes: Sequence[str] = (),
    limit: int | None = None,
    batch_size: int | None = None,
    max_new_tokens: int = 512,
    template: str = "medvlm-r1",
    dtype: str = "auto",
    skip_missing: bool = False,
    open_questions: bool = False,
    evaluation: Path | str | None = None,
    progress: Progress | None = None,
    backend: AuditBackend | None = None,
) -> dict[str, Any]:
    """Audit whether answers depend on the image and on the stated reasoning. Repeat the same call to resume.

    Args:
        model: A folder, a Hub id, "phantom-base", or "openai:URL#NAME" for a model on a server. The sentences of the
            report name what a server does not support. If `backend` is given, `model` is only the name stored with the
            answers.
        data_dir: A data folder.
        out: The run folder. `answers.jsonl` grows with every batch or reply, and `audit.json` is written at the end.
        probes: Names of the probes to run; all by default.
        limit: Audit at most N questions; all by default.
        open_questions: Audit the open questions. By default they are excluded and counted, and the questions with
            options are audited.
        batch_size: Number of questions answered together, each with all its variants. With a server it is also the
            number of concurrent requests. The default is `ITEMS_AT_ONCE`, or `REQUESTS` with a server.
        max_new_tokens: Token limit; longer completions are cut off and counted.
        template: Name of the prompt template.
        dtype: Dtype of a local model, as in `load_policy`.
        skip_missing: Exclude and count rows whose images are missing, instead of stopping.
        evaluation: Run folder of an evaluation with the same model, data and settings. Its answers to the original
            questions are reused. The audit answers the questions that the evaluation did not answer.
        progress: Called with the number of stored answers and the total number of answers expected. The total is None
            before the first answer, and an estimate until the last batch.
        backend: Generates the answers instead of the named model.

    Returns:
        The content of `audit.json`; docs/reference/audit-model.md explains its keys.

    Raises:
        UsageError: An argument is out of range, or the name of a probe is unknown.
        UserError: The data or the model cannot be used, a server does not reply, or the run folder has answers for
            another model or other data. It is also raised if the evaluation used another model, prompt, image or
            setting.
    """
    data_dir, out = Path(data_dir), Path(out)
    chosen = choose_probes(probes)
    require_positive(limit=limit, batch_size=batch_size, max_new_tokens=max_new_tokens)
    refuse_other_folder(data_dir, out, OF_AN_EVALUATION)
    everything = list(enumerate(read_folder(data_dir), start=1))
    kind = [row for row in everything if bool(row[1].options) != open_questions]
    if not kind:
        what = "no question is open; leave out --open" if open_questions else "no question has options; give --open"
        raise UserError(f"{data_dir}: {what}")
    kind = kind[:limit]
    local = None if backend is not None or is_server(model) else model
    rows = present_rows(data_dir, kind, skip_missing, local)
    identity = identify(model, backend, dtype)
    at_once = batch_size or (REQUESTS if is_server(model) else ITEMS_AT_ONCE)
    backend = backend or open_audit_backend(model, template, max_new_tokens, at_once, dtype)
    processor = image_fit(local).processor if local is not None and template in BOX_TEMPLATES else None
    partner = partners([sample for _, sample in rows])
    reusable = EvaluationAnswers(None if evaluation is None else Path(evaluation), [sample.id for _, sample in rows])
    batches = even_parts(len(rows), at_once)
    plan = _plan(list(chosen), [[rows[index][1].id for index in batch] for batch in batches])
    settings = GenerationSettings(max_new_tokens=max_new_tokens)
    usable = {name: probe for name, probe in chosen.items() if not (open_questions and probe.needs_options)}
    refusals: dict[str, set[tuple[str, str]]] = {name: set() for name in usable}
    began = time.monotonic()
    report = progress or (lambda done, total: None)
    with AuditStore(out) as store:
        report(sum(len(item.answers) for item in store.items.values()), None)
        done = 0
        for batch in batches:
            own = (_probe_input(data_dir, rows, index, partner[index], template) for index in batch)
            inputs = [replace(item, processor=processor) for item in own]
            stored = {
                item.sample.id: store.open_item(
                    item.sample, answer_key(identity, item.sample, [*item.images, *item.others], template, settings)
                )
                for item in inputs
            }
            missing = [item for item in inputs if REAL not in stored[item.sample.id].answers]
            answers = {item.sample.id: reusable.find(item, stored[item.sample.id].key) for item in missing}
            if reused := {name: {REAL: answer} for name, answer in answers.items() if answer}:
                store.append(reused, REUSED)
            collect_responses(
                inputs,
                usable.values(),
                backend,
                {name: dict(item.answers) for name, item in stored.items()},
                resumed={
                    name: {variant for variant, made_by in item.plans.items() if made_by == plan}
                    for name, item in stored.items()
                },
                save=_saving(store, plan, stored.values(), report, done, (len(rows) - batch.stop) / len(batch)),
            )
            done += sum(len(item.answers) for item in stored.values())
            for item in inputs:
                answered = stored[item.sample.id].answers
                for name, probe in usable.items():
                    unanswered = [v for v in probe.then(item, answered[REAL]) if v.name not in answered]
                    refusals[name] |= {(backend.refusal(v), v.name.partition("-")[0]) for v in unanswered}
        report(done, done)
        items = audited([sample for _, sample in rows], {name: item.answers for name, item in store.items.items()})
    results = {
        **provenance(model, identity, data_dir, out, template, max_new_tokens),
        "n": len(items),
        "open": open_questions,
        # Questions of the other kind.
        "n_left_out": sum(bool(sample.options) == open_questions for _, sample in everything),
        "n_missing": len(kind) - len(rows),
        "n_reused": sum(store.items[item.sample.id].plans[REAL] == REUSED for item in items),
        "seconds": round(time.monotonic() - began, 3),
        **judged(items, chosen, refusals),
    }
    write_results(out, results, FIGURES)
    return results


def judged(
    items: Sequence[AuditedItem],
    probes: Mapping[str, Probe],
    refusals: Mapping[str, Collection[tuple[str, str]]] | None = None,
) -> dict[str, Any]:
    """Compute the verdicts, answer counts and probe results of audited items.

    Args:
        items: At least one item.
        probes: The probes that were run, by name.
        refusals: For each probe, pairs of the reason why the backend could not answer a variant, and the kind of
            variant, such as "early" for "early-0".

    Returns:
        A mapping with three keys: `verdicts` (by name in `QUESTIONS`), `answers` (counts by kind) and `probes` (the
        record of each probe's result).
    """
    # Resampling depends on the order of the items.
    items = sorted(items, key=lambda item: item.sample.id)
    no_options = not items[0].sample.options
    results = {
        name: probe.result(("not run", "It needs questions with options."))
        if no_options and probe.needs_options
        else _of_enough(probe.measure(items), items)
        for name, probe in probes.items()
    }
    for name, pairs in (refusals or {}).items():
        for reason, group in groupby(sorted(pairs), key=itemgetter(0)):
            kinds = ", ".join(kind for _, kind in group)
            results[name] = replace(results[name], sentence=f"{results[name].sentence} Not run ({kinds}): {reason}.")
    real = [item.real for item in items]
    return {
        "verdicts": {
            verdict: results[name].verdict if name in results else "not run" for verdict, (name, _) in QUESTIONS.items()
        },
        "answers": {
            "variants": sum(len(item.answers) for item in items),
            "unparsed": sum(answer.option is None for answer in real),
            "cut_off": sum(answer.truncated for answer in real),
            "empty": sum(answer.empty for answer in real),
            "not_well_formed": sum(not item.real.response(item.sample.options).well_formed for item in items),
        },
        "probes": {name: result.record() for name, result in results.items()},
    }


def _of_enough(result: ProbeResult, items: Sequence[AuditedItem]) -> ProbeResult:
    """Return the result, with the verdict "not run" if there are fewer than `FEWEST_SUBJECTS` subjects.

    Bootstrap intervals over so few subjects would be too narrow.
    """
    subjects = len({item.sample.cluster for item in items})
    if result.verdict == "not run" or subjects >= FEWEST_SUBJECTS:
        return result
    verdict, why = too_few(f"{subjects} subjects", FEWEST_SUBJECTS)
    return replace(result, verdict=verdict, sentence=f"{why} {result.sentence}")


def counted(record: Mapping[str, Any]) -> str:
    """Format the counts of an audit in one line: questions, variants, and unparsed, cut-off and empty answers."""
    answers = record["answers"]
    return (
        f"{record['n']} questions in {answers['variants']} variants; answers to the questions as they are: "
        f"{answers['unparsed']} unparsed, {answers['cut_off']} cut off, {answers['empty']} empty"
    )


def _probe_input(data_dir: Path, rows: Sequence[Row], index: int, partner: int | None, template: str) -> ProbeInput:
    others = [] if partner is None else load_row_images(data_dir, rows[partner])
    sample = rows[index][1]
    made = probe_input(sample, load_row_images(data_dir, rows[index]), others, template)
    return made if sample.options else replace(made, wrong=_wrong_answer(sample, [row for _, row in rows]))


def _wrong_answer(sample: Sample, samples: Sequence[Sample]) -> str | None:
    """Choose the answer of another open question: of the same type if possible, and wrong for this one."""
    others = {other.answer for other in samples if other.question_type == sample.question_type}
    candidates = sorted(others if len(others) > 1 else {other.answer for other in samples})
    start = item_seed(sample) % len(candidates)
    for answer in (*candidates[start:], *candidates[:start]):
        if not means(sample, answer, sample.answer):
            return answer
    return None


def _plan(probes: Sequence[str], batches: Sequence[Sequence[str]]) -> str:
    """Hash of the probe names and of the sample ids in each batch."""
    return hashlib.sha256(json.dumps([probes, batches]).encode()).hexdigest()[:12]


def _saving(
    store: AuditStore, plan: str, items: Collection[StoredItem], report: Progress, done: int, left: float
) -> Callable[[Mapping[str, Answers], int], None]:
    """Return a function that stores new answers and reports the progress.

    Args:
        store: The answer store.
        plan: Hash of the probes and batches (see `_plan`), which is stored with the answers.
        items: The items of the batch.
        report: Called with the number of answers and the expected total.
        done: Number of answers to items of earlier batches.
        left: Number of items in later batches, divided by the number of items in this batch.
    """

    def save(new: Mapping[str, Answers], expected: int) -> None:
        store.append(new, plan)
        stored = sum(len(item.answers) for item in items)
        report(done + stored, done + max(stored, expected) + round(left * expected))

    return save
