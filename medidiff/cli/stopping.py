"""How a command is stopped from outside: in good order at the first Ctrl-C or SIGTERM, at once at the second Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from medidiff.errors import ExitCode


@contextmanager
def good_order() -> Iterator[None]:
    """Let Ctrl-C and a batch system's SIGTERM end a command in good order, and a second Ctrl-C end it at once.

    At once means as by ``kill -9``: what is half written stays under its temporary name until the next run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping:
            return
        stopping = True
        if number == signal.SIGINT:
            os.write(2, b"Stopping; what is half done is removed. Ctrl-C again ends at once.\n")
        raise KeyboardInterrupt

    # a job in the background may have been started to ignore Ctrl-C; a handler that is not Python's cannot be put back
    left = (signal.SIG_IGN, None)
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) not in left]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        with end_at_second_interrupt():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def end_at_second_interrupt() -> Iterator[None]:
    """Count the interrupts in a thread of its own: Python hears of none while the network computes."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def count() -> None:
        seen = 0
        while heard := reader.recv(64):
            seen += heard.count(signal.SIGINT)
            if seen > 1:
                os._exit(ExitCode.INTERRUPTED)

    watcher = threading.Thread(target=count, name="second interrupt", daemon=True)
    watcher.start()
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writer.close()
        watcher.join()
        reader.close()
