"""Several servers with the same model, asked side by side: `openai:URL,URL,...#NAME`.

Each server has its own requests under way, so a fast one answers more. One that stops answering is named and left out
from then on, and its questions go to the others.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, Generator, in_order
from medvlm_r1.models.remote import PREFIX, ServerGenerator, ServerGone, check_items


@dataclass(slots=True, kw_only=True)
class ServerPool:
    """Completes by asking several servers."""

    servers: tuple[ServerGenerator, ...]
    """At least two."""
    _gone: set[str] = field(init=False, default_factory=set)

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; the results stand in the order of the items.

        Raises:
            UserError: no server is left that answers, one refuses, or an item has another number of images than of
                image placeholders.
        """
        return in_order(self.iterate(items, settings))

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """As `StreamingGenerator`.

        Raises:
            UserError: as `generate`.
        """
        check_items(items)
        waiting = deque(index for index in range(len(items)) if index not in done)
        last = ""
        while waiting:
            alive = [server for server in self.servers if server.url not in self._gone]
            if not alive:
                names = ", ".join(server.url for server in self.servers)
                raise UserError(
                    f"None of the servers answers: {names}.{last} Start them, then run the same command again: "
                    "finished answers are kept."
                )
            workers = [server for server in alive for _ in range(server.concurrency)]
            # Completions, and one None for each worker that ends.
            results: SimpleQueue[tuple[int, Generation] | None] = SimpleQueue()
            with ThreadPoolExecutor(max_workers=len(workers)) as pool:
                ended = [pool.submit(self._work, server, items, settings, waiting, results) for server in workers]
                try:
                    for _ in workers:
                        while (result := results.get()) is not None:
                            yield [result]
                    for future in ended:
                        last = future.result() or last
                except BaseException:
                    # What is under way ends; nothing new is begun.
                    waiting.clear()
                    raise

    def _work(
        self,
        server: ServerGenerator,
        items: Sequence[GenerationInput],
        settings: GenerationSettings,
        waiting: deque[int],
        results: SimpleQueue[tuple[int, Generation] | None],
    ) -> str:
        """Take items while there are some and the server answers; returns why it was left out."""
        try:
            with server.client() as client:
                while server.url not in self._gone:
                    try:
                        index = waiting.popleft()
                    except IndexError:
                        return ""
                    try:
                        results.put((index, server.complete(client, items[index], settings)))
                    except ServerGone as error:
                        waiting.append(index)
                        if server.url not in self._gone:
                            self._gone.add(server.url)
                            print(f"Left out from here on: {error}", file=sys.stderr)
                            return f" The last one: {error}"
            return ""
        except BaseException:
            waiting.clear()
            raise
        finally:
            results.put(None)


def server_generator(model: str, concurrency: int = 8) -> Generator:
    """What asks the server, or the servers, of a name.

    Args:
        model: `openai:URL#NAME`, or `openai:URL,URL,...#NAME`.
        concurrency: Requests under way at each server.

    Raises:
        UserError: The name has another form.
    """
    urls, mark, name = model.removeprefix(PREFIX).partition("#")
    servers = tuple(
        ServerGenerator.parse(f"{PREFIX}{url.strip()}{mark}{name}", concurrency)
        for url in dict.fromkeys(urls.split(","))
    )
    return servers[0] if len(servers) == 1 else ServerPool(servers=servers)
