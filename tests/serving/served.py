"""A real server in a thread, with the model that a test gives it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from medvlm_r1.serving.backend import LocalBackend
from medvlm_r1.serving.engine import Engine
from medvlm_r1.serving.medvlm import MedVLM

NAME = "tiny"


@dataclass
class Served:
    """A server under way."""

    url: str
    medvlm: MedVLM
    engine: Engine

    def client(self, **settings: Any) -> Any:
        """OpenAI's own client, which gives up at once instead of trying again."""
        from openai import OpenAI

        return OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": 300, **settings})


@contextmanager
def serving(engine: Engine, *, max_new_tokens: int = 12, **settings: Any) -> Iterator[Served]:
    """A real server on a free port."""
    from medvlm_r1.serving.api import build_app
    from medvlm_r1.serving.server import Server, address_of, bind

    medvlm = MedVLM(LocalBackend(engine), name=NAME, max_new_tokens=max_new_tokens)
    bound = bind("127.0.0.1", 0)
    started = threading.Event()
    server = Server(build_app(medvlm, page=False, **settings), started.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    started.wait()
    try:
        yield Served(address_of(bound), medvlm, engine)
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


def picture(number: int = 0) -> Image.Image:
    return Image.new("RGB", (56, 28), (number * 37 % 256, number * 91 % 256, 80))


def user(*images: str, text: str = "Which organ is shown?") -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
