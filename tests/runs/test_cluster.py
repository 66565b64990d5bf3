from __future__ import annotations

import json
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dask
import distributed
import psutil
import pydicom
import pytest
import torch

from medidiff import cli
from medidiff.config import ComputeOptions, RunConfig
from medidiff.errors import ExitCode, MedidiffError, PipelineError, UsageError
from medidiff.runs import CaseResult, PlannedCase, RunResult, Silent, environment, locks, slurm, worker, workforce
from medidiff.runs.attempt import Outcome
from medidiff.scans import outputs
from medidiff.scans.volume import ScanRef
from tests.fake_pipelines import make_bundle
from tests.fake_worker import DIE, DIE_ONCE, FAIL, WAIT

Go = Callable[..., RunResult]
Write = Callable[..., Path]
ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fake_pipelines.py"
PRELOAD = str(ROOT / "tests" / "fake_worker.py")
TRIES = {"distributed.scheduler.allowed-failures": 1}


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bundles of the workers, which have the fake pipeline and go wrong where a scan asks for it."""
    folder = tmp_path_factory.mktemp("worker_bundles")
    make_bundle(folder / "fake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_BUNDLES", str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        yield folder


@pytest.fixture(scope="module")
def address(bundle_folder: Path) -> Iterator[str]:
    """A scheduler with two local workers of one thread each; connections within this machine are not refused."""
    config = RunConfig(inputs=(bundle_folder,), output=bundle_folder, jobs=2)
    with (
        dask.config.set({"distributed.worker.preload": [PRELOAD], **TRIES}),
        workforce.gathered(config, todo=9) as force,
    ):
        yield force.client.scheduler.address


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def by_input(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {case["input"]: {**case, "seconds": None} for case in tree["cases"]}


def lasting(sidecar: Path) -> dict[str, Any]:
    """A sidecar without what two runs of one process differ in."""
    tree = json.loads(sidecar.read_text())
    return {name: part for name, part in tree.items() if name not in ("created", "timings", "seal", "compute")}


def test_no_port_is_open_beyond_this_machine(address: str) -> None:
    me = psutil.Process()
    ports = [port for each in (me, *me.children(recursive=True)) for port in each.net_connections()]
    listening = [port.laddr.ip for port in ports if port.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert set(listening) <= {"127.0.0.1", "::1"}


def test_two_workers_give_what_one_process_gives(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path, address: str
) -> None:
    for index in range(5):
        scan(tmp_path / "in" / f"sub{index}" / "t1.nii.gz", value=10 * index)
    (tmp_path / "in" / "bad.nii.gz").write_text("no scan")
    settings: dict[str, Any] = {"uncertainty": True, "compute": ComputeOptions(threads=1)}
    alone = go(tmp_path / "in", output=tmp_path / "alone", **settings)
    before = len(fake.loads)
    shared = go(tmp_path / "in", output=tmp_path / "shared", cluster=address, **settings)
    assert len(fake.loads) == before, "the client loads no pipeline"
    assert shared.exit_code == alone.exit_code == ExitCode.SOME_FAILED
    assert by_input(record(tmp_path / "shared")) == by_input(record(tmp_path / "alone"))
    assert record(tmp_path / "shared")["status"] == "failed"
    images = sorted(path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*.nii.gz"))
    assert len(images) == 15
    for image in images:
        assert (tmp_path / "shared" / image).read_bytes() == (tmp_path / "alone" / image).read_bytes()
    for sidecar in (tmp_path / "alone").rglob("t1_denoised.json"):
        assert lasting(tmp_path / "shared" / sidecar.relative_to(tmp_path / "alone")) == lasting(sidecar)
    assert not list((tmp_path / "shared").rglob(".medidiff*"))


def test_pixels_of_series_are_the_same(go: Go, sample_data: Path, tmp_path: Path, address: str) -> None:
    series = next(path for path in sample_data.rglob("*.dcm")).parent
    go(series, output=tmp_path / "alone")
    assert go(series, output=tmp_path / "shared", cluster=address).exit_code == ExitCode.OK
    pixels = [
        sorted((image.InstanceNumber, image.PixelData) for image in map(pydicom.dcmread, folder.rglob("*.dcm")))
        for folder in (tmp_path / "alone", tmp_path / "shared")
    ]
    assert pixels[0] == pixels[1]


def test_relative_paths_and_sentences_are_those_of_the_client(
    go: Go, scan: Write, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "bad.nii.gz").write_text("no scan")
    monkeypatch.chdir(tmp_path)
    go(Path("in"), output=Path("alone"))
    go(Path("in"), output=Path("shared"), cluster=address)
    assert by_input(record(tmp_path / "shared")) == by_input(record(tmp_path / "alone"))
    assert str(tmp_path) not in (tmp_path / "shared" / "run.json").read_text()


def test_a_failure_that_pickle_cannot_carry_fails_its_case_alone(
    go: Go, scan: Write, tmp_path: Path, address: str
) -> None:
    for name, value in (("a", 1), ("b", FAIL), ("c", 3)):
        scan(tmp_path / "in" / f"{name}.nii.gz", value=value)
    heard = Heard()
    result = go(tmp_path / "in", output=tmp_path / "out", cluster=address, reporter=heard)
    assert result.exit_code == ExitCode.SOME_FAILED
    cases = by_input(record(tmp_path / "out"))
    assert [cases[f"../in/{name}.nii.gz"]["status"] for name in "abc"] == ["done", "failed", "done"]
    reason = cases["../in/b.nii.gz"]["reason"]
    assert reason.endswith(
        "b.nii.gz failed unexpectedly (Odd: first second); run again with -vv for details and please report it."
    )
    (error,) = heard.errors
    assert isinstance(error, MedidiffError)


class Heard(Silent):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.finished_cases: list[str] = []
        self.notes: list[str] = []

    def finished(self, case: Any, result: Any, error: BaseException | None) -> None:
        self.finished_cases.append(case.ref.stem)
        if error is not None:
            self.errors.append(error)

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_killed_worker_costs_its_case_alone(
    go: Go, scan: Write, tmp_path: Path, address: str, bundle_folder: Path
) -> None:
    for index in range(6):
        scan(tmp_path / "in" / f"s{index}.nii.gz", value=DIE_ONCE if index == 2 else index)
    result = go(tmp_path / "in", output=tmp_path / "out", cluster=address)
    assert (bundle_folder / "died").exists()
    assert result.exit_code == ExitCode.OK
    assert [case["status"] for case in record(tmp_path / "out")["cases"]] == ["done"] * 6
    assert len(list((tmp_path / "out").glob("*_denoised.nii.gz"))) == 6
    assert not list((tmp_path / "out").rglob(".medidiff*"))


def test_a_case_that_a_lost_worker_had_finished_is_done_and_not_skipped(tmp_path: Path) -> None:
    ref = ScanRef("nifti", tmp_path / "a.nii", (tmp_path / "a.nii",), Path("a.nii"), "a")
    case = PlannedCase(ref, outputs.output_names(ref, tmp_path, "denoise"))
    (tmp_path / locks.PLACE).mkdir()
    order = worker.Order("run", RunConfig(inputs=(tmp_path,), output=tmp_path), tmp_path, tmp_path, "", ())
    skipped = Outcome(CaseResult("a.nii", "nifti", "skipped", "made by another run"))
    done = replace(skipped, result=replace(skipped.result, status="done", reason=""))
    assert worker.credited(skipped, order, case) == skipped
    assert worker.credited(done, order, case) == done
    assert worker.credited(skipped, order, case) == done
    assert worker.credited(skipped, replace(order, run="other"), case) == skipped
    locks.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_case_that_kills_every_worker_fails_with_a_sentence(
    go: Go, scan: Write, tmp_path: Path, address: str
) -> None:
    scan(tmp_path / "in" / "huge.nii.gz", value=DIE)
    result = go(tmp_path / "in", output=tmp_path / "out", cluster=address)
    assert result.exit_code == ExitCode.MEMORY
    (case,) = record(tmp_path / "out")["cases"]
    assert case["status"] == "failed"
    assert "huge.nii.gz ended every worker that tried it" in case["reason"]
    assert not list((tmp_path / "out").rglob(".medidiff*"))


def test_fail_fast_begins_no_more_cases(go: Go, scan: Write, tmp_path: Path, address: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_text("no scan")
    for index in range(12):
        scan(tmp_path / "in" / f"s{index:02}.nii.gz", value=WAIT)
    heard = Heard()
    result = go(tmp_path / "in", output=tmp_path / "out", cluster=address, fail_fast=True, reporter=heard)
    tree = record(tmp_path / "out")
    assert tree["status"] == "failed"
    assert result.exit_code in (ExitCode.ALL_FAILED, ExitCode.SOME_FAILED)
    assert len(tree["cases"]) < 6
    assert heard.notes == ["Stopped at the first failure, as --fail-fast asks."]
    done = {case["outputs"]["restored"] for case in tree["cases"]} - {None}
    assert done == {path.name for path in (tmp_path / "out").glob("*.nii.gz")}


def test_what_is_done_is_skipped_without_a_worker(go: Go, scan: Write, tmp_path: Path, address: str) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    go(tmp_path / "in", output=tmp_path / "out", cluster=address)
    scan(tmp_path / "in" / "b.nii.gz")
    again = go(tmp_path / "in", output=tmp_path / "out", cluster=address)
    assert sorted(case.status for case in again.record.cases) == ["done", "skipped"]
    nobody = go(tmp_path / "in", output=tmp_path / "out", cluster="tcp://127.0.0.1:1")
    assert [case.status for case in nobody.record.cases] == ["skipped", "skipped"]


def test_an_interruption_is_recorded_with_what_was_done(go: Go, scan: Write, tmp_path: Path, address: str) -> None:
    for index in range(12):
        scan(tmp_path / "in" / f"s{index:02}.nii.gz", value=WAIT)

    class Impatient(Heard):
        def finished(self, case: Any, result: Any, error: BaseException | None) -> None:
            super().finished(case, result, error)
            if len(self.finished_cases) == 2:
                raise KeyboardInterrupt

    result = go(tmp_path / "in", output=tmp_path / "out", cluster=address, reporter=Impatient())
    assert result.exit_code == ExitCode.INTERRUPTED
    tree = record(tmp_path / "out")
    assert tree["status"] == "interrupted"
    assert 2 <= len(tree["cases"]) < 8
    done = {case["outputs"]["restored"] for case in tree["cases"]}
    assert done == {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert not list((tmp_path / "out").rglob(".medidiff*"))


def test_task_keys_and_arguments_tell_nothing(tmp_path: Path) -> None:
    config = RunConfig(inputs=(tmp_path / "SECRET",), output=tmp_path)
    order = worker.Order("run", config, tmp_path, tmp_path, "", ())
    for each in (order, worker.Reply(fatal=UsageError("SECRET"))):
        assert "SECRET" not in repr(each)


def test_nobody_at_the_address_is_a_usage_error(go: Go, scan: Write, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(UsageError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:1"),
    ):
        go(tmp_path / "in", output=tmp_path / "out", cluster="tcp://127.0.0.1:1")
    assert record(tmp_path / "out")["status"] == "failed"


def test_a_worker_that_dies_while_it_starts_is_a_sentence(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        scan(tmp_path / "in" / f"{name}.nii.gz")

    def dies(**options: object) -> None:
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", dies)
    with pytest.raises(MedidiffError, match="ended while it started") as caught:
        go(tmp_path / "in", output=tmp_path / "out", jobs=2)
    assert caught.value.exit_code == ExitCode.ALL_FAILED
    assert record(tmp_path / "out")["status"] == "failed"


@pytest.mark.parametrize("flags", [["--jobs", "2"], ["--cluster", "local"], ["--device", "cuda:0,cuda:1"]])
def test_without_the_extra_a_sentence_says_what_to_install(
    fake: ModuleType,
    scan: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    monkeypatch.setattr(workforce, "find_spec", lambda name: None)
    scan(tmp_path / "a.nii.gz")
    assert cli.main(["denoise", str(tmp_path / "a.nii.gz"), "-o", str(tmp_path / "out"), *flags]) == ExitCode.USAGE
    assert 'install it: pip install "medidiff[cluster]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"cluster": "slurm"}, "--jobs"),
        ({"cluster": "mars"}, "'mars' is no cluster"),
        ({"cluster": "tcp://10.0.0.1:8786", "jobs": 2}, "a running scheduler has its workers"),
        ({"cluster": "slurm", "jobs": 2, "compute": {"device": "cuda:0,cuda:1"}}, "takes one device"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        RunConfig.model_validate({"inputs": [tmp_path], "output": tmp_path, **settings})


@pytest.mark.parametrize(
    ("settings", "spread"),
    [
        ({}, False),
        ({"jobs": 1}, False),
        ({"jobs": 2}, True),
        ({"cluster": "local"}, True),
        ({"compute": {"device": "cuda:0,cuda:1"}}, True),
    ],
)
def test_one_job_needs_no_workers(tmp_path: Path, settings: dict[str, Any], spread: bool) -> None:
    assert RunConfig.model_validate({"inputs": [tmp_path], "output": tmp_path, **settings}).spread is spread


@pytest.mark.parametrize(
    ("asked", "found", "devices", "jobs"),
    [
        ({"device": "auto"}, 2, ("cuda:0", "cuda:1"), 2),
        ({"device": "auto"}, 0, (), 3),
        ({"device": "auto", "threads": 4}, 0, (), 2),
        ({"device": "auto", "memory": 2}, 0, (), 6),
        ({"device": "auto", "memory": 99}, 0, (), 1),
        ({"device": "cpu"}, 2, (), 3),
        ({"device": "cuda:1"}, 2, (), 1),
        ({"device": "cuda:0,cuda:3"}, 4, ("cuda:0", "cuda:3"), 2),
    ],
)
def test_workers_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], found: int, devices: tuple[str, ...], jobs: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setattr(workforce, "cores", lambda: 8)
    monkeypatch.setattr(workforce, "available_memory", lambda: 13e9)
    compute = ComputeOptions(**asked)
    assert workforce.gpus(compute) == devices
    assert workforce.usual(compute, devices) == jobs


def test_each_worker_takes_the_device_of_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(inputs=(tmp_path,), output=tmp_path, compute=ComputeOptions(device="cuda:0,cuda:3", threads=2))
    own = workforce.for_workers(config, 2, 3.5)
    assert (own.compute.device, own.jobs, own.cluster) == ("cuda:0", None, None)
    order = worker.Order("run", own, tmp_path, tmp_path, "", (), ("cuda:0", "cuda:3"))
    for number, device in ((0, "cuda:0"), (1, "cuda:3"), (2, "cuda:0")):
        monkeypatch.setattr(distributed, "get_worker", lambda number=number: SimpleNamespace(name=number))
        assert worker.own(order).compute == ComputeOptions(device=device, threads=2, memory=3.5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"code": "another"}, UsageError, "another medidiff"),
        ({"pipelines": (("fake", "another"),)}, PipelineError, "other pipelines"),
        ({"folder": Path("/absent")}, UsageError, "does not see the files"),
        ({"start": Path("/absent")}, UsageError, "does not see the files"),
    ],
)
def test_a_worker_that_does_not_suit_says_so(
    fake: ModuleType, tmp_path: Path, change: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    right = {"code": environment.code_sha256(), "pipelines": ()}
    config = RunConfig(inputs=(tmp_path,), output=tmp_path)
    case: Any = SimpleNamespace(names=outputs.OutputNames(*[tmp_path / "a"] * 5))
    order = worker.Order(**{"run": "a run", "config": config, "folder": tmp_path, "start": tmp_path, **right, **change})
    reply = worker.work(order, case)
    assert isinstance(reply.fatal, error)
    assert sentence in str(reply.fatal)


def test_slurm_job_script(tmp_path: Path) -> None:
    settings = {
        "jobqueue.slurm.queue": "gpu",
        "jobqueue.slurm.account": "lab7",
        "jobqueue.slurm.walltime": "02:00:00",
        "jobqueue.slurm.cores": 8,
        "jobqueue.slurm.memory": "16GiB",
        "jobqueue.slurm.interface": "lo",
        "jobqueue.slurm.job-extra-directives": ["--gres=gpu:1"],
        "jobqueue.slurm.job-script-prologue": ["module load python"],
    }
    with dask.config.set(settings):
        cluster, threads, memory = slurm.prepare(ComputeOptions(), workforce.DASK, workforce.HIDDEN_DASHBOARD)
        try:
            script = cluster.job_script()
        finally:
            cluster.close()
    lines = script.splitlines()
    assert (threads, memory) == (8, 15.5)
    for line in ("-p gpu", "-A lab7", "-t 02:00:00", "-n 1", "--cpus-per-task=8", "--mem=16G", "--gres=gpu:1"):
        assert f"#SBATCH {line}" in lines
    assert "module load python" in lines
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False" in lines
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://127.0.0.1:" in lines[-1]
    assert "--nthreads 1 --memory-limit 16.00GiB --nanny" in lines[-1]
    assert "--no-dashboard" in lines[-1]


def test_threads_and_memory_go_before_the_configuration_of_slurm() -> None:
    settings = {"jobqueue.slurm.cores": 8, "jobqueue.slurm.memory": "16GiB", "jobqueue.slurm.interface": "lo"}
    with dask.config.set(settings):
        asked = ComputeOptions(threads=3, memory=6)
        cluster, threads, memory = slurm.prepare(asked, {}, workforce.HIDDEN_DASHBOARD)
        try:
            script = cluster.job_script()
        finally:
            cluster.close()
    assert "#SBATCH --cpus-per-task=3" in script
    assert "#SBATCH --mem=6G" in script
    assert (threads, memory) == (3, 5.4)


def test_slurm_without_memory_and_without_sbatch(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"jobqueue\.slurm\.memory"):
        go(tmp_path / "in", output=tmp_path / "out", cluster="slurm", jobs=1)
    with (
        dask.config.set({"jobqueue.slurm.memory": "4GB", "jobqueue.slurm.interface": "lo"}),
        pytest.raises(UsageError, match="sbatch was not found"),
    ):
        go(tmp_path / "in", output=tmp_path / "out", cluster="slurm", jobs=1)


def script(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_slurm_that_takes_no_job(go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    script(tmp_path, "sbatch", "echo 'invalid partition' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with (
        dask.config.set({"jobqueue.slurm.memory": "4GB", "jobqueue.slurm.interface": "lo"}),
        pytest.raises(UsageError, match="SLURM took no job: invalid partition;"),
    ):
        go(tmp_path / "in", output=tmp_path / "out", cluster="slurm", jobs=1)


@pytest.mark.slow
def test_slurm_jobs_do_the_work(
    go: Go, scan: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle_folder: Path
) -> None:
    """An ``sbatch`` that runs the script at once stands for SLURM."""
    for index in range(4):
        scan(tmp_path / "in" / f"s{index}.nii.gz", value=index)
    pids = tmp_path / "pids"
    script(
        tmp_path,
        "sbatch",
        f'cp "$1" {tmp_path}/job.$$; setsid sh {tmp_path}/job.$$ >/dev/null 2>&1 & echo $! | tee -a {pids}',
    )
    script(tmp_path, "scancel", "kill -- -$1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = {"jobqueue.slurm.memory": "1GB", "jobqueue.slurm.interface": "lo"}
    extra = {"jobqueue.slurm.worker-extra-args": ["--preload", PRELOAD]}
    with dask.config.set({**settings, **extra}):
        result = go(tmp_path / "in", output=tmp_path / "out", cluster="slurm", jobs=2)
    assert result.exit_code == ExitCode.OK
    assert [case.status for case in result.record.cases] == ["done"] * 4
    assert len(pids.read_text().split()) == 2
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()))


def command(tmp_path: Path, seconds: float) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, str(FAKE), "denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--jobs", "2"]
    preload = json.dumps([PRELOAD])
    return line, {**os.environ, "FAKE_SECONDS": str(seconds), "DASK_DISTRIBUTED__WORKER__PRELOAD": preload}


@pytest.mark.slow
def test_the_command_is_quiet(scan: Write, tmp_path: Path, bundle_folder: Path) -> None:
    (bundle_folder / "died").unlink(missing_ok=True)
    for index in range(4):
        scan(tmp_path / "in" / f"s{index}.nii.gz", value=DIE_ONCE if index == 1 else index)
    line, environment = command(tmp_path, 0)
    ended = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    said = ended.stderr.splitlines()
    assert len(said) == 5, ended.stderr
    assert all(f"[{number + 1}/4] " in text for number, text in enumerate(said[:4]))
    assert said[4].startswith("4 scans: 4 done")
    assert sorted(ended.stdout.splitlines()) == [str(tmp_path / "out" / f"s{i}_denoised.nii.gz") for i in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_workers_in_good_order(
    scan: Write, tmp_path: Path, bundle_folder: Path, number: signal.Signals
) -> None:
    """Ctrl-C on a terminal reaches every process of the command, and so does what batch systems send."""
    for index in range(8):
        scan(tmp_path / "in" / f"s{index}.nii.gz", value=index)
    line, environment = command(tmp_path, 1)
    process = subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    wait_for(lambda: (tmp_path / "out" / "s0_denoised.json").exists())
    time.sleep(0.3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "medidiff: Interrupted."
    tree = record(tmp_path / "out")
    assert tree["status"] == "interrupted"
    done = {case["outputs"]["restored"] for case in tree["cases"]}
    assert done == {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert not list((tmp_path / "out").rglob(".medidiff*"))
    assert not psutil.wait_procs(children, timeout=60)[1]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_levels_of_loggers_come_back() -> None:
    before = logging.getLogger("distributed.worker").level
    with workforce.quiet():
        assert not logging.getLogger("distributed.worker").isEnabledFor(logging.CRITICAL)
    assert logging.getLogger("distributed.worker").level == before
