"""Who goes through the blocks: this process, or the workers of a Dask client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from medidiff.blocks.cutting import Block
from medidiff.scans import mapped


class Run(Protocol):
    """Does a job for every block, in any order or at once, and yields as each is done."""

    def __call__(self, job: Callable[..., None], work: Any, blocks: Sequence[Block], **more: Any) -> Iterator[None]:
        """Call ``job(work, block, **more)`` for all blocks."""


def serial(job: Callable[..., None], work: Any, blocks: Sequence[Block], **more: Any) -> Iterator[None]:
    """One block after another, in this process."""
    for block in blocks:
        job(work, block, **more)
        mapped.trim()
        yield


@dataclass(frozen=True)
class Workers:
    """The workers of a Dask client; they share the folder of the store.

    Attributes:
        client: a ``distributed.Client``.
    """

    client: Any

    def __call__(self, job: Callable[..., None], work: Any, blocks: Sequence[Block], **more: Any) -> Iterator[None]:
        """Blocks as tasks; Dask does those of a lost worker again."""
        from distributed import as_completed

        shared = self.client.scatter(work, broadcast=True, hash=False)
        futures = [self.client.submit(job, shared, block, pure=False, **more) for block in blocks]
        for future in as_completed(futures):
            future.result()
            yield
