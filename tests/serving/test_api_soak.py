"""schemathesis in all its phases, 2,000 cases and more: whatever is sent, the server does not fail."""

from __future__ import annotations

import base64
import gzip
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
import pytest
import schemathesis
from pydicom.data import get_testdata_file
from schemathesis.engine import events, from_schema
from served import Served, picture

from medvlm_r1.policy.server import data_url

CASES = 2000
ROUND = 200
"""Requests that a round makes up for each operation."""


def _images() -> list[str]:
    """A picture, a DICOM and a volume, plain and zipped, as data URIs."""
    volume = nibabel.Nifti1Image(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), np.eye(4)).to_bytes()
    with open(get_testdata_file("CT_small.dcm", download=False), "rb") as file:
        held = [file.read(), volume, gzip.compress(volume)]
    return [data_url(picture()), *(f"data:;base64,{base64.b64encode(data).decode()}" for data in held)]


def with_images(body: Any, urls: itertools.cycle[str]) -> Any:
    """The body with real images in the place of the texts that stand for their addresses.

    No text that is made up decodes to an image; without this the view of one would never be looked at.
    """
    if isinstance(body, list):
        return [with_images(one, urls) for one in body]
    if isinstance(body, dict):
        made = {name: with_images(value, urls) for name, value in body.items()}
        return made | {"url": next(urls)} if isinstance(made.get("url"), str) else made
    return body


@pytest.mark.soak(share=3)
def test_soak_thousands_of_made_up_requests(
    served: Served, soaking: Callable[[], float], tried: Callable[[str, int], None]
) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    schema.config.generation.update(max_examples=ROUND, no_shrink=True, database="none")
    schema.config.checks.update(included_check_names=["not_a_server_error"])
    phases = ["examples", "coverage", "fuzzing", "stateful"]
    urls = itertools.cycle(_images())

    @schema.hook
    def map_body(context: Any, body: Any) -> Any:
        return with_images(body, urls)

    seen: Counter[str] = Counter()
    failed = []
    for number in itertools.count(1):
        schema.config.seed = number
        # What is not drawn is the same in every round.
        schema.config.phases.update(phases=phases if number == 1 else phases[2:])
        stream = from_schema(schema).execute()
        for event in stream:
            if isinstance(event, events.ScenarioFinished):
                for case in event.recorder.interactions.values():
                    status = case.response.status_code if case.response is not None else 0
                    seen[f"{event.phase.value} {status}"] += 1
                    if status >= 500 or not status:
                        failed.append((status, case.request.uri, case.request.body))
            elif isinstance(event, events.NonFatalError | events.FatalError):
                failed.append((0, "", repr(event)))
            if seen.total() >= CASES and not soaking():
                stream.stop()
        if failed or (seen.total() >= CASES and not soaking()):
            break
    print("soak:", dict(sorted(seen.items())), flush=True)
    assert failed == []
    tried("api-soak", seen.total())
    assert sum(count for name, count in seen.items() if name.endswith(" 200")) > seen.total() // 20
