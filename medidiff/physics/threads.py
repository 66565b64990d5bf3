"""Many small pieces of work on several threads, each piece on one.

torch itself splits every single operation among its threads and waits for the slowest. Where operations are short that
costs more than it gains, and on a machine that is busy with other programs a hundred times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def in_threads(function: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Call a function with each item; the items must not touch the same memory.

    Args:
        function: what is to be done; torch takes one thread inside of it.
        items: what with.
        threads: how many at most; 1 uses torch as it is.
    """
    count = min(threads, len(items))
    before, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def alone(item: Item) -> None:
        with torch.inference_mode(inference), torch.no_grad():
            function(item)

    if threads == 1:
        for item in items:
            function(item)
        return
    try:
        with ThreadPoolExecutor(max(count, 1), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(alone, items))
    finally:
        torch.set_num_threads(before)
