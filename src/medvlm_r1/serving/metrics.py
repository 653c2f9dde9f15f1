"""Figures of a server in Prometheus' form. They count; they hold nothing of any request."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from medvlm_r1.serving.engine import Engine

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The figures of one server."""

    def __init__(self, engine: Engine | None) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("medvlm_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "medvlm_request_seconds",
            "Time from request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        if engine is not None:
            self._registry.register(_EngineCollector(engine))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one request; `path` is one of few, never what a client wrote."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)


class _EngineCollector:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, counts = self._engine, self._engine.counts
        yield GaugeMetricFamily("medvlm_waiting_requests", "Requests in the queue.", value=engine.waiting)
        yield GaugeMetricFamily("medvlm_running_completions", "Completions being written.", value=engine.running)
        for name, told, value in (
            ("medvlm_prompt_tokens", "Prompt tokens read.", counts.prompt_tokens),
            ("medvlm_generated_tokens", "Tokens written.", counts.generated_tokens),
            ("medvlm_steps", "Forward passes for written tokens.", counts.steps),
            ("medvlm_cancelled_requests", "Requests stopped before their end.", counts.cancelled),
        ):
            yield CounterMetricFamily(name, told, value=value)
