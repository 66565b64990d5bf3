"""What a Dask worker does for a run: load the pipeline once, then work on one case after the other.

A worker holds one pipeline, and one case at a time, however many threads it has. Nothing leaves here as an exception
and no argument has a telling text, so that Dask has nothing about a scan to log.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import signal
import threading
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medidiff.config import RunConfig
from medidiff.errors import MedidiffError, PipelineError, UsageError
from medidiff.runs import environment, garbage, locks
from medidiff.runs.attempt import Outcome, attempt
from medidiff.runs.plan import PlannedCase
from medidiff.runs.reporter import Reporter

if TYPE_CHECKING:
    from medidiff.pipelines import Restorer

KEPT_STOPS = 1000


@dataclass(frozen=True, repr=False)
class Order:
    """What all cases of a run have in common; as text it says nothing.

    Attributes:
        run: a random name of the run.
        config: the settings, with one device and without workers.
        folder: the output folder.
        start: the folder that paths are relative to.
        code: the hash of the client's medidiff.
        pipelines: name and hash of the weights of each pipeline that a scan may go to.
        devices: the devices of the workers 0, 1, ...; empty when all take that of ``config``.
    """

    run: str
    config: RunConfig
    folder: Path
    start: Path
    code: str
    pipelines: tuple[tuple[str, str], ...]
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Reply:
    """What a worker answers about a case; as text it says nothing.

    Attributes:
        outcome: what became of it; ``None`` when it was not done.
        heard: notes and warnings in their order.
        busy: whether it was not done because another run has it in hand.
        fatal: why the worker can do no case at all.
    """

    outcome: Outcome | None = None
    heard: tuple[tuple[str, str], ...] = ()
    busy: bool = False
    fatal: BaseException | None = None


class Stopped(BaseException):
    """The run was stopped; the case in hand is given up."""


@dataclass
class Loaded:
    """The pipeline that a worker holds, and the run that it was loaded for."""

    run: str = ""
    restorer: Restorer | None = None


class Notebook(Reporter):
    """Keeps what the user should hear, and ends the case when the run was stopped.

    Args:
        run: the run's name.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.heard: list[tuple[str, str]] = []

    def progress(self, case: PlannedCase, fraction: float) -> None:
        """A place to stop at."""
        if self.run in stops:
            raise Stopped

    def note(self, text: str) -> None:
        """Keep a note."""
        self.heard.append(("note", text))

    def warning(self, text: str) -> None:
        """Keep a warning."""
        self.heard.append(("warning", text))


alone = threading.Lock()
loaded = Loaded()
stops: dict[str, None] = {}


def work(order: Order, case: PlannedCase) -> Reply:
    """Work on a case; the task that Dask runs."""
    with alone, contextlib.ExitStack() as stack:
        if order.run in stops:
            return Reply()
        try:
            settle(order, stack)
            restorer = ready(order)
            if locks.note_of(order.folder, case.names).exists():
                locks.recover(order.folder)  # another worker was lost with this case in hand
        except Exception as error:
            return Reply(fatal=portable(error))
        notebook = Notebook(order.run)
        try:
            outcome = attempt(case, own(order), order.folder, restorer, notebook)
        except Stopped:
            return Reply()
        if outcome is None:
            return Reply(busy=True)
        if outcome.error is not None:
            outcome = replace(outcome, error=portable(outcome.error))
        return Reply(credited(outcome, order, case), tuple(notebook.heard))


def credited(outcome: Outcome, order: Order, case: PlannedCase) -> Outcome:
    """The outcome; a case that a worker of this run finished, and was lost before it could tell, is done."""
    mark = locks.note_of(order.folder, case.names).with_suffix(f".{order.run}{locks.DONE}")
    if outcome.result.status == "skipped" and mark.exists():
        return replace(outcome, result=replace(outcome.result, status="done", reason=""))
    if outcome.result.status == "done":
        with contextlib.suppress(OSError):
            mark.touch()
    return outcome


def settle(order: Order, stack: contextlib.ExitStack) -> None:
    """Go to the client's folder, for relative paths, until the case is done.

    Raises:
        UsageError: the worker does not see the client's files.
    """
    try:
        if Path.cwd() != order.start:
            stack.enter_context(contextlib.chdir(order.start))
    except OSError:
        raise unseen() from None
    if not order.folder.is_dir():
        raise unseen()


def unseen() -> UsageError:
    """Why a machine without the user's files is of no use."""
    return UsageError("A worker does not see the files; scans, outputs and the working folder must be on all machines.")


def ready(order: Order) -> Restorer:
    """The pipeline of a run, loaded for the run's first case here.

    Raises:
        UsageError: the worker runs another medidiff, or lacks the device.
        PipelineError: the worker has other pipelines, or one is damaged.
    """
    from medidiff import pipelines

    if loaded.restorer is None or loaded.run != order.run:
        loaded.restorer = None  # the old one goes before the new one comes
        if environment.code_sha256() != order.code:
            raise UsageError("A worker runs another medidiff than this one; install the same on all machines.")
        config = own(order)
        able = pipelines.candidates(config.pipeline, task=config.task)
        if tuple((info.name, info.weights_sha256) for info in able) != order.pipelines:
            raise PipelineError("A worker has other pipelines than this machine; install the same on all machines.")
        name = able[0].path if len(able) == 1 else pipelines.DEFAULT
        loaded.restorer = pipelines.load(name, config.task, compute=config.compute)
        loaded.run = order.run
    return loaded.restorer


def own(order: Order) -> RunConfig:
    """The settings of this worker: with the device of its number, where workers have devices of their own."""
    if not order.devices:
        return order.config
    from distributed import get_worker

    device = order.devices[int(get_worker().name) % len(order.devices)]
    return order.config.model_copy(update={"compute": order.config.compute.model_copy(update={"device": device})})


def portable(error: BaseException) -> BaseException:
    """An exception that survives the way to the client, with its traceback as a note.

    One that does not survive becomes one of medidiff's own with its name; where a run ends the two are alike.
    """
    error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    with contextlib.suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error):
            return copy  # without frames, which hold the arrays of the case
    return MedidiffError(type(error).__name__)


def stop(run: str) -> None:
    """Give up the case in hand at the next place to stop, and take no other one of this run."""
    stops[run] = None
    while len(stops) > KEPT_STOPS:
        stops.pop(next(iter(stops)))


def forget(run: str) -> None:
    """Give back the memory of a run's pipeline."""
    if loaded.run == run:
        loaded.run, loaded.restorer = "", None
        garbage.restore()
        gc.collect()


def dask_setup(worker: Any) -> None:
    """Called by Dask in a worker of a local cluster: Ctrl-C and SIGTERM are for the client, which tells the workers.

    They reach all processes of a command; the client then records what the workers were about to hand over. When the
    client is gone, or ends them, Dask does it without these signals.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
