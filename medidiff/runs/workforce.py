"""Dask workers for a run: processes on this machine, SLURM jobs, or those of a scheduler that runs already.

Needs the extra ``cluster``. No port is opened beyond this machine for local workers, and no dashboard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from medidiff.config import LOCAL, SLURM, ComputeOptions, RunConfig
from medidiff.errors import MedidiffError, UsageError
from medidiff.scans.limits import available_memory

WORKER_BYTES = 4e9  # what a worker may need for a brain of 1 mm voxels
PRELOAD = "medidiff.runs.worker"
# A worker has one case at a time, so a pause at much memory would never end; and nothing is served over HTTP.
DASK = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # one thread each until the worker sets its own; not Dask's MALLOC_TRIM_THRESHOLD_, with which the arrays of every
    # step are taken from the system anew, at half the speed
    "distributed.nanny.pre-spawn-environ": dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1
    ),
}
HIDDEN_DASHBOARD = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
TALKATIVE = ("distributed", "tornado", "asyncio", "bokeh")


@dataclass(frozen=True)
class Workforce:
    """Workers, and what they are to do.

    Attributes:
        client: the connection to their scheduler.
        expected: how many workers there will be; 0 when not known.
        config: the run's settings for a worker.
        devices: a device for each worker; empty when all take that of ``config``.
    """

    client: Any
    expected: int
    config: RunConfig
    devices: tuple[str, ...] = ()


@contextmanager
def gathered(config: RunConfig, todo: int) -> Iterator[Workforce]:
    """Start or find the workers that the settings ask for; those that were started end with the context.

    Args:
        config: the run's settings.
        todo: how many cases there are to do.

    Raises:
        UsageError: the extra ``cluster`` is missing, there is no such scheduler, or SLURM takes no jobs.
    """
    require("distributed")
    with quiet():
        if config.cluster in (None, LOCAL):
            yield from local(config, todo)
        elif config.cluster == SLURM:
            yield from slurm(config)
        else:
            yield from running(config)


def require(package: str) -> None:
    """Make sure that a package of the extra is there.

    Raises:
        UsageError: it is not.
    """
    if find_spec(package) is None:
        raise UsageError(
            "--jobs, --cluster and several devices need the extra `cluster`; install it: "
            'pip install "medidiff[cluster]".'
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what Dask logs off the screen; a run says itself what became of each case."""
    levels = {name: logging.getLogger(name).level for name in TALKATIVE}
    import distributed  # noqa: F401 - sets the levels of its loggers

    names = [*TALKATIVE, *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))]
    levels |= {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def local(config: RunConfig, todo: int) -> Iterator[Workforce]:
    """Worker processes on this machine, each with one task at a time.

    Raises:
        MedidiffError: one ended while it started.
    """
    import dask
    from distributed import LocalCluster

    devices = gpus(config.compute)
    jobs = max(1, min(todo, config.jobs or usual(config.compute, devices)))
    threads = config.compute.threads or max(1, cores() // jobs)
    free = available_memory()
    memory = config.compute.memory or (None if free is None else round(free / jobs / 1e9, 1))
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        preload = [*dask.config.get("distributed.worker.preload"), PRELOAD]
        try:
            cluster = LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                host="127.0.0.1",
                scheduler_kwargs=HIDDEN_DASHBOARD,
                worker_dashboard_address=None,
                memory_limit=None,
                preload=preload,
                silence_logs=logging.CRITICAL + 1,
            )
        except RuntimeError as error:  # of Dask, when a process is killed before it is a worker
            raise MedidiffError(
                f"A worker ended while it started ({jobs} were wanted), as for lack of memory; give fewer --jobs."
            ) from error
        stack.callback(cluster.close)
        yield Workforce(connected(cluster, stack), jobs, for_workers(config, threads, memory), devices)


def gpus(compute: ComputeOptions) -> tuple[str, ...]:
    """The devices to give to workers in turn; empty when all take the one that is asked for."""
    if len(compute.devices) > 1:
        return compute.devices
    if compute.device not in ("auto", "cuda"):
        return ()
    import torch

    return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))


def usual(compute: ComputeOptions, devices: tuple[str, ...]) -> int:
    """How many workers there are on this machine unless asked for: one a GPU, else as cores and memory allow."""
    if devices or compute.device not in ("auto", "cpu"):
        return max(1, len(devices))
    free = available_memory() or WORKER_BYTES
    each = WORKER_BYTES if compute.memory is None else compute.memory * 1e9
    return max(1, min(cores() // (compute.threads or 1), int(free // each)))


def cores() -> int:
    """The cores that this process may use."""
    from dask.system import CPU_COUNT

    return int(CPU_COUNT)


def slurm(config: RunConfig) -> Iterator[Workforce]:
    """Workers as SLURM jobs, as Dask's own configuration says, with one task at a time.

    Raises:
        UsageError: dask-jobqueue is missing, the configuration lacks the memory, or SLURM takes no jobs.
    """
    require("dask_jobqueue")
    import dask

    from medidiff.runs import slurm as jobs

    count = config.jobs or 1
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(DASK))
        cluster, threads, memory = jobs.prepare(config.compute, DASK, HIDDEN_DASHBOARD)
        stack.callback(cluster.close)
        jobs.submit(cluster, count)
        yield Workforce(connected(cluster, stack), count, for_workers(config, threads, memory))


def running(config: RunConfig) -> Iterator[Workforce]:
    """The workers of a scheduler that runs already.

    Raises:
        UsageError: nobody answers there.
    """
    with ExitStack() as stack:
        try:
            client = connected(config.cluster, stack)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"No Dask scheduler answers at {config.cluster}; start one (dask scheduler) or correct the address."
            ) from error
        yield Workforce(client, 0, for_workers(config, config.compute.threads, config.compute.memory))


def connected(where: Any, stack: ExitStack) -> Any:
    """A client of a cluster or of a scheduler at an address, closed with the stack."""
    from distributed import Client

    client = Client(where, set_as_default=False)
    stack.callback(client.close)
    return client


def for_workers(config: RunConfig, threads: int | None, memory: float | None) -> RunConfig:
    """The settings of one worker: those of the run as one process would have them.

    Args:
        config: the run's settings.
        threads: of the worker.
        memory: that the worker may take, in GB.
    """
    compute = config.compute.model_copy(update={"threads": threads, "memory": memory})
    if len(compute.devices) > 1:
        compute = compute.model_copy(update={"device": compute.devices[0]})
    return config.model_copy(update={"compute": compute, "jobs": None, "cluster": None})
