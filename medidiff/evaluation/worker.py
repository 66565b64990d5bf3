"""Runs one method on one degraded scan: ``python -m medidiff.evaluation.worker JOB``, a process a job.

Its own process makes a method's memory its own, and keeps a method that is killed from ending the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.errors import MedidiffError
from medidiff.evaluation import baselines, exchange, provenance
from medidiff.evaluation.degrade import Degraded
from medidiff.evaluation.exchange import Job, Outcome
from medidiff.evaluation.results import Image
from medidiff.footprint import peak_gb

Made = tuple[dict[str, Image], dict[str, Any]]  # named images in the scan's units, what medidiff says of them
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def run(job: Job) -> Outcome:
    """Do a job, in a process of its own if it asks for one; its files are written, and it never raises for the method.

    Raises:
        CannotWrite: the result cannot be written.
    """
    if not job.alone:
        return work(job)
    environment = dict(os.environ)
    if job.threads is not None:
        environment |= dict.fromkeys(THREADS, str(job.threads))
    text = json.dumps({**asdict(job), "folder": str(job.folder.resolve())})
    command = [sys.executable, "-m", "medidiff.evaluation.worker", text]
    job.outcome_file.unlink(missing_ok=True)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0 and job.outcome_file.is_file():
        return Outcome(**json.loads(job.outcome_file.read_text(encoding="utf-8")))
    if done.returncode < 0:
        reason = f"{job.method} was killed (signal {-done.returncode}), most often for lack of memory."
    else:
        reason = f"{job.method} ended with exit code {done.returncode}."
    return _failed(job, reason)


def work(job: Job) -> Outcome:
    """Do a job in this process."""
    limit_cores(job)
    try:
        degraded = exchange.load_problem(job.folder)
        method = prepare(job)
        begin, busy = time.perf_counter(), time.process_time()
        images, record = method(degraded)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - busy
    except MedidiffError as error:
        return _failed(job, provenance.discreet(str(error)))
    except MemoryError:
        return _failed(job, f"{job.method} needs more memory than there is.")
    except Exception as error:  # a peer may raise anything; a message may hold a path
        said = "" if "/" in str(error) else f": {str(error)[:200]}"
        return _failed(job, f"{job.method} stopped with {type(error).__name__}{said}.")
    if not np.isfinite(images["image"]).all():
        return _failed(job, f"{job.method} gave an image with values that are not finite.")
    exchange.save_images(job.image_file, **images)
    outcome = Outcome(job.key, "", seconds, cpu_seconds, peak_gb() if job.alone else None, record)
    exchange.save_outcome(job, outcome)
    return outcome


def _failed(job: Job, reason: str) -> Outcome:
    outcome = Outcome(job.key, reason)
    exchange.save_outcome(job, outcome)
    return outcome


def prepare(job: Job) -> Callable[[Degraded], Made]:
    """The method, with what it imports and loads.

    Raises:
        PipelineError: medidiff's weights are damaged.
    """
    if job.method in baselines.OWN:
        return prepare_own(job)
    peer = baselines.PEERS[job.method]
    if peer.module:
        import_module(peer.module)

    def made(degraded: Degraded) -> Made:
        return {"image": degraded.scaling.undo(peer.run(degraded, job.threads))}, {}

    return made


def prepare_own(job: Job) -> Callable[[Degraded], Made]:
    """One of medidiff's own."""
    from medidiff import pipelines
    from medidiff.config import ComputeOptions
    from medidiff.evaluation import ours

    problem = exchange.load_problem(job.folder)
    restorer: pipelines.Restorer | None = None
    if job.method != "base" or problem.task != "denoise":
        compute = ComputeOptions(device=job.device, threads=job.threads)
        restorer = pipelines.load(job.pipeline, problem.task, compute=compute)
        restorer.choose(ours.volume_of(problem))  # loads the weights

    def made(degraded: Degraded) -> Made:
        image, found = ours.restore(job.method, degraded, restorer, force=job.force)
        if found is None:
            return {"image": image}, {}
        record = {"record": found.record, "checks": found.checks, "verdicts": list(found.verdicts)}
        return {"image": image, "uncertainty": found.std, "supplied": found.supplied}, record

    return made


def limit_cores(job: Job) -> None:
    """Keep a process of its own to as many cores as were asked for; BM4D takes every one that it may use."""
    if job.alone and job.threads is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])


def main(text: str) -> None:
    """Do the job that a JSON text describes."""
    tree = json.loads(text)
    work(Job(**{**tree, "folder": Path(tree["folder"])}))


if __name__ == "__main__":
    main(sys.argv[1])
