"""The cases of a run as tasks of Dask workers; the client keeps the record and tells the user.

Dask hands a case of a worker that died to another one, up to ``distributed.scheduler.allowed-failures`` times. No more
than twice as many cases as workers are handed in at a time, so a folder of any size costs the scheduler little.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medidiff import pipelines
from medidiff.config import RunConfig
from medidiff.errors import MedidiffError, OutOfMemory, UsageError
from medidiff.runs import environment, worker, workforce
from medidiff.runs.attempt import Outcome, attempt, result
from medidiff.runs.plan import Plan, PlannedCase
from medidiff.runs.reporter import Reporter
from medidiff.runs.worker import Order, Reply
from medidiff.runs.workforce import Workforce

AHEAD = 2  # cases handed in for each worker
GRACE = 60.0  # seconds that a stopped run waits for results that are being written
TICK = 0.5  # seconds; a wait without an end cannot be interrupted on Windows
LONGEST_PAUSE = 2.0  # seconds between two tries of a case that another run has in hand


@contextmanager
def crew(config: RunConfig, plan: Plan, reporter: Reporter) -> Iterator[Crew]:
    """Workers for a run, to go through the cases with.

    Raises:
        UsageError: the workers cannot be had.
    """
    with workforce.gathered(config, plan.count("todo")) as force:
        working = Crew(config, plan, reporter, force)
        try:
            yield working
        finally:
            working.dismiss()


class Crew:
    """Gives the cases in the order in which they are done; to be gone through again after `stop`.

    Args:
        config: the run's settings.
        plan: the cases.
        reporter: hears of each case when it is done.
        force: the workers.
    """

    def __init__(self, config: RunConfig, plan: Plan, reporter: Reporter, force: Workforce) -> None:
        self.config, self.plan, self.reporter, self.force = config, plan, reporter, force
        self.client = force.client
        self.waiting = deque(plan.cases)
        self.flying: dict[str, tuple[PlannedCase, Any, float]] = {}
        self.landed: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.deadline: float | None = None
        self.pause = 0.0
        able = pipelines.candidates(config.pipeline, task=config.task)
        self.order = Order(
            run=uuid.uuid4().hex,
            config=force.config,
            folder=plan.folder,
            start=Path.cwd(),
            code=environment.code_sha256(),
            pipelines=tuple((info.name, info.weights_sha256) for info in able),
            devices=force.devices,
        )
        if not force.expected and not self.workers():
            reporter.warning("No worker is connected to the scheduler; the scans wait for one.")

    def __iter__(self) -> Iterator[tuple[PlannedCase, Outcome]]:
        """Hand in cases and give those that are done, until none is left."""
        while self.waiting or self.flying:
            while self.waiting and self.waiting[0].state != "todo":
                case = self.waiting.popleft()
                found = attempt(case, self.config, self.plan.folder, None, self.reporter)
                if found is not None:
                    yield case, found
            self.hand_in()
            done = self.next_one()
            if done is not None:
                yield done
            elif self.deadline is not None:
                self.tell(worker.stop)  # a worker that came since, in the place of one that died, knows of nothing
            if self.deadline is not None and time.monotonic() > self.deadline:
                return

    def workers(self) -> int:
        """How many workers there are now."""
        return len(self.client.nthreads())

    def hand_in(self) -> None:
        """Give the scheduler as many cases as keep the workers busy."""
        if not self.waiting:
            return
        room = AHEAD * max(1, self.force.expected, self.workers()) - len(self.flying)
        while room > 0 and self.waiting and self.waiting[0].state == "todo":
            case = self.waiting.popleft()
            key = f"medidiff-{uuid.uuid4().hex}"
            future = self.client.submit(worker.work, self.order, case, key=key, pure=False)
            self.flying[key] = case, future, time.perf_counter()
            future.add_done_callback(lambda done: self.landed.put(done.key))
            room -= 1

    def next_one(self) -> tuple[PlannedCase, Outcome] | None:
        """The next case that is done, if one is soon."""
        try:
            key = self.landed.get(timeout=TICK if self.flying else 0)
        except queue.Empty:
            return None
        case, future, since = self.flying[key]
        try:
            done = self.outcome(case, future, since)
        except KeyboardInterrupt:  # it is done all the same
            self.landed.put(key)
            raise
        del self.flying[key]
        return None if done is None else (case, done)

    def outcome(self, case: PlannedCase, future: Any, since: float) -> Outcome | None:
        """What became of a case; ``None`` when it was given up, or has to be tried again later.

        Raises:
            MedidiffError: no case can be done: the workers do not suit, or are lost.
        """
        from distributed import KilledWorker

        try:
            reply: Reply = future.result()
        except KilledWorker as error:
            return self.killed(case, since, error) if self.deadline is None else None
        except Exception as error:
            if future.cancelled() or self.client.status != "running":
                raise MedidiffError("The Dask scheduler was lost; repeat the command, what is done is kept.") from error
            raise UsageError(
                f"The workers do not take the work ({type(error).__name__}); install the same on all machines."
            ) from error
        if reply.fatal is not None:
            raise reply.fatal
        if reply.busy and self.deadline is None:
            self.later(case)
        if reply.outcome is not None:
            self.pause = 0.0
            self.reporter.started(case)
            for kind, text in reply.heard:
                (self.reporter.warning if kind == "warning" else self.reporter.note)(text)
        return reply.outcome

    def later(self, case: PlannedCase) -> None:
        """Put a case that another run has in hand to the end, and wait a little when nothing else is to be done."""
        self.waiting.append(case)
        if len(self.flying) == 1:
            self.reporter.status("waiting for scans that another run has in hand")
            self.pause = min(self.pause + 0.1, LONGEST_PAUSE)
            time.sleep(self.pause)

    def killed(self, case: PlannedCase, since: float, error: BaseException) -> Outcome:
        """A case of which every worker died."""
        reason = (
            f"{case.ref.path} ended every worker that tried it, as too little memory does; use fewer workers (--jobs)"
            " or machines with more memory."
        )
        cause = OutOfMemory(reason)
        cause.__cause__ = error
        return Outcome(result(case, self.plan.folder, since, "failed", reason), cause)

    def stop(self) -> None:
        """Take no more cases, and have those in hand given up unless they are being written."""
        self.waiting.clear()
        self.tell(worker.stop)
        self.deadline = time.monotonic() + (GRACE if self.workers() else 0)

    def dismiss(self) -> None:
        """End what is still handed in, and free the workers of the pipeline."""
        if self.flying:
            self.tell(worker.stop)
            with suppress(Exception):
                self.client.cancel([future for _, future, _ in self.flying.values()], force=True)
        if not self.force.expected:  # workers that stay
            self.tell(worker.forget)

    def tell(self, function: Any) -> None:
        """Call a function of the worker with the run's name in every worker; one that is gone needs it no more."""
        with suppress(Exception):
            self.client.run(function, self.order.run, on_error="ignore")
