"""SLURM jobs as Dask workers, through dask-jobqueue and its own configuration (``~/.config/dask``)."""

from __future__ import annotations

import logging
import shlex
import shutil
import time
from typing import Any

import dask
from dask.utils import parse_bytes
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed.core import Status

from medidiff.config import ComputeOptions
from medidiff.errors import UsageError

PATIENCE = 60.0  # seconds for SLURM to take the jobs
OWN_SHARE = 0.9  # of a job's memory that is for the restoration; Dask ends a worker at 0.95


class Job(SLURMJob):
    """A job that keeps why SLURM refused it.

    Attributes:
        refusal: what ``sbatch`` said.
    """

    refusal = ""

    async def start(self) -> None:
        """Hand in the job."""
        try:
            await super().start()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            said = str(error).partition("stderr:")[2] or str(error)
            self.refusal = " ".join(said.split())
            self.status = Status.failed


class Cluster(SLURMCluster):
    """SLURM jobs that keep why they were refused."""

    job_cls = Job


def prepare(compute: ComputeOptions, settings: dict[str, Any], scheduler: dict[str, Any]) -> tuple[Cluster, int, float]:
    """A cluster without jobs yet; the threads of a worker, and the memory that it may take, in GB.

    The cores of a job in Dask's configuration are threads of torch here: a worker has one task at a time.

    Args:
        compute: its threads and its memory go before those of the configuration.
        settings: of Dask, for the workers.
        scheduler: options of the scheduler, where the configuration has none.

    Raises:
        UsageError: the memory of a job is missing.
    """
    configured = dask.config.get("jobqueue.slurm")
    processes = int(configured.get("processes") or 1)
    threads = compute.threads or max(1, int(configured.get("cores") or 1) // processes)
    cpus = threads * processes if compute.threads else configured.get("job-cpu") or threads * processes
    memory = f"{compute.memory * processes:g}GB" if compute.memory else configured.get("memory")
    exports = [f"export {variable(name)}={value}" for name, value in settings.items() if ".worker." in name]
    try:
        cluster = Cluster(
            cores=processes,
            processes=processes,
            job_cpu=cpus,
            memory=memory,
            job_script_prologue=[*(configured.get("job-script-prologue") or ()), *exports],
            worker_extra_args=[*(configured.get("worker-extra-args") or ()), "--no-dashboard"],
            scheduler_options={**scheduler, **(configured.get("scheduler-options") or {})},
            silence_logs=logging.CRITICAL + 1,
        )
    except ValueError as error:
        raise UsageError(
            "--cluster slurm needs the memory of a job; give --memory, or set jobqueue.slurm.memory in"
            " ~/.config/dask/jobqueue.yaml."
        ) from error
    return cluster, threads, round(OWN_SHARE * parse_bytes(memory) / processes / 1e9, 1)


def variable(name: str) -> str:
    """The environment variable of a setting of Dask."""
    return "DASK_" + name.upper().replace(".", "__").replace("-", "_")


def submit(cluster: Cluster, jobs: int) -> None:
    """Hand in the jobs and see that SLURM takes them.

    Raises:
        UsageError: it does not.
    """
    command = shlex.split(cluster.job_cls.submit_command)[0]
    if shutil.which(command) is None:
        raise UsageError(f"{command} was not found; --cluster slurm runs on a machine that hands in jobs to SLURM.")
    cluster.scale(jobs)  # type: ignore[no-untyped-call]
    until = time.monotonic() + PATIENCE
    while len(cluster.workers) < len(cluster.worker_spec) and time.monotonic() < until:
        time.sleep(0.05)
    refusals = [job.refusal for job in cluster.workers.values() if job.refusal]
    if refusals:
        raise UsageError(f"SLURM took no job: {refusals[0].rstrip('.')}; correct ~/.config/dask/jobqueue.yaml.")
