"""A server under load: the throughput of many clients against one, replies that belong to their requests, memory.

Every request asks for the log-probabilities of what is written. They differ from image to image, so they mark a reply:
under load each must be the one that the same request got from an idle server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from medvlm_r1.console import Advance
from medvlm_r1.dialogue.prompt import render_prompt
from medvlm_r1.errors import UserError
from medvlm_r1.phantom.benchmark import draw_questions, to_sample
from medvlm_r1.phantom.scene import render
from medvlm_r1.policy.server import data_url

# Distinct requests; their replies are learned from the idle server first.
_REQUESTS = 24
# Sums of log-probabilities that differ by less are equal: floating point, added up in another order under load.
_TOLERANCE = 1e-3
_WARM_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Mark:
    """What tells one reply from another."""

    text: str
    logprob: float

    def fits(self, other: Mark) -> bool:
        """Whether it is the same reply."""
        return self.text == other.text and abs(self.logprob - other.logprob) < _TOLERANCE


@dataclass(slots=True)
class Load:
    """What some clients saw."""

    replies: int = 0
    wrong: int = 0
    refused: int = 0
    tokens: int = 0
    seconds: float = 0.0
    processor: float | None = None
    """Processor seconds of the server, which other work on the machine does not change as it does the clock."""

    def __add__(self, other: Load) -> Load:
        known = self.processor is not None and other.processor is not None
        return Load(
            replies=self.replies + other.replies,
            wrong=self.wrong + other.wrong,
            refused=self.refused + other.refused,
            tokens=self.tokens + other.tokens,
            seconds=self.seconds + other.seconds,
            processor=(self.processor or 0.0) + (other.processor or 0.0) if known else None,
        )


def bench_serve(model: str, *, clients: int, seconds: float, max_new_tokens: int, progress: Advance) -> dict[str, Any]:
    """Start a server of its own, load it, and stop it.

    Args:
        model: As `medvlm-r1 serve` takes it.
        clients: Parallel clients; each sends its next request when the last is answered.
        seconds: Time of each load: of one client, then of all.
        max_new_tokens: Longest reply.
        progress: Told of the loads done.

    Returns:
        Replies a second of one client and of all, their ratio, replies that were not the request's own, and the
        server's memory in bytes at the begin and the end of the load by all.

    Raises:
        UserError: The server does not start.
    """
    bodies = [_body(model, index, max_new_tokens) for index in range(_REQUESTS)]
    with _server(model, clients, max_new_tokens) as (address, process):
        return asyncio.run(_measure(address, process, bodies, clients, seconds, progress))


async def _measure(
    address: str,
    process: subprocess.Popen[str],
    bodies: Sequence[dict[str, Any]],
    clients: int,
    seconds: float,
    progress: Advance,
) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as http:
        name = (await http.get("/models")).json()["data"][0]["id"]
        for body in bodies:
            body["model"] = name
        marks = [_mark((await http.post("/chat/completions", json=body)).json()) for body in bodies]
        distinct = sum(all(not a.fits(b) for b in marks[:i]) for i, a in enumerate(marks))
        progress(1, 5, note="one client")
        # One half before and one after the others, for a machine that grows slower or faster.
        alone = await _load(http, bodies, marks, 1, seconds / 2, process.pid)
        progress(2, 5, note=f"{clients} clients, to warm up")
        await _load(http, bodies, marks, clients, min(seconds, _WARM_SECONDS), process.pid)
        before = _resident(process.pid)
        progress(3, 5, note=f"{clients} clients")
        many = await _load(http, bodies, marks, clients, seconds, process.pid)
        after = _resident(process.pid)
        progress(4, 5, note="one client")
        alone += await _load(http, bodies, marks, 1, seconds / 2, process.pid)
    progress(5, 5)
    one, all_ = alone.replies / alone.seconds, many.replies / many.seconds
    return {
        "clients": clients,
        "seconds": seconds,
        "replies_per_second": {"one": one, "all": all_},
        "tokens_per_second": {"one": alone.tokens / alone.seconds, "all": many.tokens / many.seconds},
        "ratio": all_ / one,
        "processor_seconds_per_reply": {
            "one": None if alone.processor is None else alone.processor / alone.replies,
            "all": None if many.processor is None else many.processor / many.replies,
        },
        "replies": many.replies,
        "wrong": alone.wrong + many.wrong,
        "refused": many.refused,
        "requests": {"different": len(bodies), "marks": distinct},
        "memory": {"begin": before, "end": after},
    }


async def _load(
    http: httpx.AsyncClient,
    bodies: Sequence[dict[str, Any]],
    marks: Sequence[Mark],
    clients: int,
    seconds: float,
    server: int,
) -> Load:
    load = Load()
    begun, used = time.monotonic(), _processor_seconds(server)
    numbers = itertools.count()

    async def client() -> None:
        while time.monotonic() - begun < seconds:
            index = next(numbers) % len(bodies)
            reply = await http.post("/chat/completions", json=bodies[index])
            if reply.status_code == 429:
                load.refused += 1
                await asyncio.sleep(float(reply.headers["retry-after"]))
                continue
            record = reply.json()
            load.replies += 1
            load.wrong += reply.status_code != 200 or not _mark(record).fits(marks[index])
            load.tokens += record.get("usage", {}).get("completion_tokens", 0)

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.monotonic() - begun
    if used is not None:
        load.processor = (_processor_seconds(server) or used) - used
    return load


def _mark(record: Mapping[str, Any]) -> Mark:
    [choice] = record["choices"]
    return Mark(choice["message"]["content"], sum(token["logprob"] for token in choice["logprobs"]["content"]))


def _body(model: str, index: int, max_new_tokens: int) -> dict[str, Any]:
    modality = ("MRI", "CT", "X-ray")[index % 3]
    question = draw_questions("test", modality, _REQUESTS // 3, 0)[index // 3]
    text = {"type": "text", "text": render_prompt(to_sample(question, "test", index))}
    image = {"type": "image_url", "image_url": {"url": data_url(Image.fromarray(render(question.scene)))}}
    return {
        "messages": [{"role": "user", "content": [image, text]}],
        "max_tokens": max_new_tokens,
        "temperature": 0,
        "logprobs": True,
    }


@contextlib.contextmanager
def _server(model: str, clients: int, max_new_tokens: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own: its address and the process.

    It multiplies on one thread if the caller's environment names no number: for a model as small as the embedded one
    a second takes more than it gives, and HTTP and the clients want a core too.
    """
    command = [sys.executable, "-m", "medvlm_r1", "serve", model, "--port", "0", "--no-page"]
    command += ["--max-batch", str(clients), "--max-new-tokens", str(max_new_tokens)]
    env = {"OMP_NUM_THREADS": "1"} | os.environ
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+/v1", line):
                yield found[0], process
                return
        raise UserError(f"The server did not start: {process.stderr.read().strip()}")
    finally:
        process.terminate()
        process.communicate()


def _resident(pid: int) -> int | None:
    """Memory of a process in bytes; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


def _processor_seconds(pid: int) -> float | None:
    """Processor time a process has used; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def serve_lines(found: Mapping[str, Any]) -> list[str]:
    """The figures as lines of text."""
    speed, tokens, memory = found["replies_per_second"], found["tokens_per_second"], found["memory"]
    lines = [
        f"one client   {speed['one']:7.2f} replies/s  {tokens['one']:7.0f} tokens/s",
        f"{found['clients']:>3} clients  {speed['all']:7.2f} replies/s  {tokens['all']:7.0f} tokens/s   "
        f"{found['ratio']:.2f} times",
        f"{found['replies']} replies under load, {found['wrong']} not the request's own, {found['refused']} refused; "
        f"{found['requests']['marks']} of {found['requests']['different']} requests have a mark of their own",
    ]
    cost = found["processor_seconds_per_reply"]
    if cost["all"]:
        lines.append(
            f"processor seconds a reply {cost['one']:.3f} for one client, {cost['all']:.3f} for all: "
            f"{cost['one'] / cost['all']:.2f} times"
        )
    if memory["begin"] is not None:
        grown = (memory["end"] - memory["begin"]) / 2**20
        lines.append(f"memory {memory['end'] / 2**20:.0f} MB, {grown:+.0f} MB over {found['seconds']:.0f} s of load")
    return lines
