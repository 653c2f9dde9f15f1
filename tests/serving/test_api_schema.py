"""Bodies made from the API's own schema, and against it: whatever comes, the server does not fall."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from served import NAME, Served


@pytest.mark.parametrize(
    ("path", "mode", "wanted"),
    [
        ("POST /v1/chat/completions", GenerationMode.POSITIVE, {200, 400}),
        ("POST /v1/chat/completions", GenerationMode.NEGATIVE, {400}),
        ("GET /v1/models/{model}", GenerationMode.POSITIVE, {404}),
    ],
)
def test_no_request_makes_the_server_fail(served: Served, path: str, mode: GenerationMode, wanted: set[int]) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    method, address = path.split()
    seen = set()

    @given(schema[address][method].as_strategy(generation_mode=mode))
    # What fails is shown as it was made: making it smaller would ask the server for minutes.
    @settings(max_examples=40, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    def answered(case: Any) -> None:
        # The one model there is, so that the rest of the body is looked at.
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = NAME
        reply = case.call()
        seen.add(reply.status_code)
        assert reply.status_code < 500

    answered()
    assert wanted <= seen


def test_the_schema_names_the_errors_that_are_sent(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert document["info"]["description"] == "Research use only. Not a medical device."
    responses = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(responses) >= {"200", "400", "401", "404", "413", "429", "500"}
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "422" not in json.dumps(list(responses))
    assert "HTTPValidationError" not in json.dumps(document)
