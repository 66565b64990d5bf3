"""The faults that a run may meet, each injected into a real process; `benchmarks.faults` makes a table of them.

Each fault harms a process of `medidiff`; afterwards the same command runs again with the cause removed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.disks import disk, remount
from benchmarks.fault import Fault, Seen, again, at, line
from benchmarks.forks import Stage, use_real_pipelines
from medidiff.scans import outputs


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


def killed(stage: Stage) -> Seen:
    ended = stage.run(prepare=at("b", lambda: os.kill(os.getpid(), signal.SIGKILL)))
    lost = [] if stage.record()["status"] == "running" else ["run.json does not say running"]
    after = stage.run("-v")
    lost += [*stage.lies(), *stage.leftovers()]
    if stage.statuses() != ["skipped", "done", "done"]:
        lost.append(f"the next run had {stage.statuses()}")
    return Seen(ended, lost, after.code, f"(nothing; the next run:) {after.sentence}")


def killed_writing(stage: Stage) -> Seen:
    """Under a file name of the user's own, between the image and its sidecar."""

    def prepare(fake: ModuleType) -> None:
        from medidiff.runs import sidecar

        sidecar.build = lambda **_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]

    one = {"output": "out/one.nii.gz", "source": "in/a.nii.gz"}
    ended = stage.run(prepare=prepare, **one)
    lost = [] if (stage.out / "one.nii.gz").exists() else ["nothing was written yet, so the fault was not injected"]
    after = stage.run(**one)
    return Seen(ended, lost + stage.hidden(), after.code, f"(nothing; the next run:) {after.sentence}")


def interrupted(number: signal.Signals) -> Callable[[Stage], Seen]:
    def inject(stage: Stage) -> Seen:
        child = stage.start(prepare=at("b", lambda: time.sleep(100)))
        stage.wait_for("a_denoised.json")
        time.sleep(0.3)
        child.send(number)
        ended = child.end()
        lost = [] if stage.record()["status"] == "interrupted" else ["run.json does not say interrupted"]
        return again(stage, ended, [*lost, *stage.leftovers()])

    return inject


def interrupted_twice(stage: Stage) -> Seen:
    """While the first one is not heard, because the process computes outside of Python."""
    child = stage.start(prepare=at("b", lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)))
    stage.wait_for("a_denoised.json")
    time.sleep(0.5)
    for _ in range(2):
        child.send(signal.SIGINT)
        time.sleep(0.2)
    return again(stage, child.end(), shown="(ended at once)")


def two_at_once(stage: Stage) -> Seen:
    children = [stage.start(prepare=slowly(stage, 0.2)) for _ in range(2)]
    lost = watch(stage, children[0].pid)
    ended, other = (child.end() for child in children)
    worked = (stage.folder / "worked.txt").read_text().split()
    tree = stage.record()
    if sorted(worked) != sorted(set(worked)) or len(worked) != len(stage.names):
        lost.append(f"{len(worked)} scans were restored in place of {len(stage.names)}")
    if other.code or tree["status"] != "done" or stage.statuses() != ["done"] * len(stage.names):
        lost.append(f"run.json says {tree['status']}, {stage.statuses()}")
    if [run["status"] for run in tree["runs"]] != ["done", "done"]:
        lost.append("run.json does not tell of both runs")
    return again(stage, ended, [*lost, *stage.leftovers()])


def one_of_two_killed(stage: Stage) -> Seen:
    first = stage.start(prepare=at("a", lambda: time.sleep(100)))
    wait(lambda: outputs.entries(stage.out / ".medidiff-run", "case-*.json"))
    second = stage.start(prepare=slowly(stage, 0.05))
    stage.wait_for("c_denoised.json")
    lost = [] if stage.record()["status"] == "running" else ["run.json does not say running"]
    first.send(signal.SIGKILL)
    first.end()
    ended = second.end()
    runs = sorted(run["status"] for run in stage.record()["runs"])
    if runs != ["done", "killed"] or stage.statuses() != ["done"] * 3 or stage.record()["status"] != "done":
        lost.append(f"run.json says {runs}, {stage.statuses()}")
    return again(stage, ended, [*lost, *stage.leftovers()])


def slowly(stage: Stage, seconds: float) -> Callable[[ModuleType], None]:
    """Take some time for each scan, and write down that it was worked on."""

    def prepare(fake: ModuleType) -> None:
        def work(volume: Any) -> None:
            time.sleep(seconds)
            with (stage.folder / "worked.txt").open("a") as stream:
                stream.write(f"{float(volume.array.min())} ")

        fake.on_restore = work

    return prepare


def watch(stage: Stage, pid: int) -> list[str]:
    """Read ``run.json`` again and again while a process works; what it said that was not so."""
    wrong: list[str] = []
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if (stage.out / "run.json").exists():
            wrong += stage.lies()
    return wrong


def wait(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    for _ in range(10_000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError


def full(stage: Stage) -> Seen | None:
    """Somebody else fills the disk to the last byte while the second scan is restored."""

    def fill() -> None:
        try:
            with (stage.out / "somebody-else").open("wb") as stream:
                while True:
                    stream.write(bytes(4096))
                    stream.flush()
        except OSError:
            return

    with disk(stage.out, "1m") as mounted:
        if not mounted:
            return None
        ended = stage.run(prepare=at("b", fill))
        told = (stage.record()["status"], stage.statuses())
        lost = [] if told == ("failed", ["done", "failed"]) else [f"run.json says {told}"]
        (stage.out / "somebody-else").unlink()
        return again(stage, ended, lost)


def writing_fails(stage: Stage) -> Seen:
    """The disk has no room for the second result; without a disk of one's own."""

    def prepare(fake: ModuleType) -> None:
        from medidiff.scans import outputs

        sync = outputs._sync

        def no_room(path: Path) -> None:
            if path.name.endswith("b_denoised.nii.gz"):
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(path)

        outputs._sync = no_room

    ended = stage.run(prepare=prepare)
    told = (stage.record()["status"], stage.statuses())
    return again(stage, ended, [] if told == ("failed", ["done", "failed"]) else [f"run.json says {told}"])


def read_only(stage: Stage) -> Seen | None:
    with disk(stage.out, "4m") as mounted:
        if not mounted:
            return None
        stage.run("--exclude", "b*")
        remount(stage.out, "ro")
        ended = stage.run()
        lost = stage.lies()
        remount(stage.out, "rw")
        return again(stage, ended, lost)


def vanished(stage: Stage) -> Seen:
    path = stage.folder / "in" / "b.nii.gz"
    kept = path.read_bytes()
    ended = stage.run(prepare=at("a", path.unlink))
    path.write_bytes(kept)
    return again(stage, ended, shown=line(ended, "failed"))


def changed(stage: Stage) -> Seen:
    ended = stage.run(prepare=at("b", lambda: stage.scan("b", 250.0)))
    stage.before = stage.inputs()
    lost = ["a result of the changed scan was left"] if "b_denoised.nii.gz" in stage.images() else []
    return again(stage, ended, lost, shown=line(ended, "failed"))


def broken(stage: Stage) -> Seen:
    path = stage.folder / "in" / "b.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    ended = stage.run()
    path.write_bytes(whole)
    return again(stage, ended, shown=line(ended, "failed"))


def out_of_memory(stage: Stage) -> Seen:
    ended = stage.run(prepare=lambda fake: setattr(fake, "on_restore", lambda volume: raising(MemoryError())()))
    return again(stage, ended, shown=line(ended, "failed"))


def little_memory(stage: Stage) -> Seen:
    """The network has memory for windows of 64 voxels, and the scan is longer."""
    stage.scan("a", 100.0, (96, 32, 32))
    stage.before = stage.inputs()

    def prepare(fake: ModuleType) -> None:
        from medidiff.diffusion import device

        use_real_pipelines()
        run = device.run

        def limited(network: Any, *arguments: Any) -> Any:
            def forward(windows: Any, parameters: Any) -> Any:
                if max(windows.shape[2:]) > 64:
                    raise MemoryError
                return network(windows, parameters)

            return run(forward, *arguments)

        device.run = limited

    ended = stage.run("--force", prepare=prepare)
    notes = (stage.out / "a_denoised.json").read_text()
    lost = [] if "at most 64 voxels" in notes else ["the sidecar does not tell of the smaller windows"]
    return Seen(ended, [*lost, *stage.lies(), *stage.leftovers()], shown=line(ended, "memory"))


def without_locks(stage: Stage) -> Seen:
    def prepare(fake: ModuleType) -> None:
        import fcntl

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        fcntl.flock = refuse

    ended = stage.run(prepare=prepare)
    return again(stage, ended, shown=line(ended, "locks"))


def slow_disk(stage: Stage) -> Seen:
    """Every file takes a while to open; also those that have to be opened to see that they are no scans."""
    for number in range(5):
        (stage.folder / "in" / f"note-{number}").write_text("no scan")
    stage.before = stage.inputs()

    def prepare(fake: ModuleType) -> None:
        from medidiff.cli import progress

        progress.QUIET = 0.0  # whatever takes longer than nothing is told
        openly = Path.open

        def slowly(path: Path, *arguments: Any, **options: Any) -> Any:
            if "in" in path.parts:
                time.sleep(0.1)
            return openly(path, *arguments, **options)

        Path.open = slowly  # type: ignore[method-assign, assignment]

    ended = stage.run("--progress", "plain", prepare=prepare)
    shown = [line(ended, pattern) for pattern in ("looking for scans", "reading")]
    return again(stage, ended, [] if all(shown) else ["no line on what the run waits for"], shown=" / ".join(shown))


FAULTS = (
    Fault("killed (kill -9) while a scan is restored", killed, -9, "1 skipped|2 done"),
    Fault("killed between an image and its sidecar, output under a name of one's own", killed_writing, -9, "1 done"),
    Fault("Ctrl-C", interrupted(signal.SIGINT), 130, "Interrupted"),
    Fault("SIGTERM of a batch system", interrupted(signal.SIGTERM), 130, "Interrupted"),
    Fault("Ctrl-C twice, the first unheard", interrupted_twice, 130, "at once"),
    Fault("two runs on one output folder at once", two_at_once, 0, "done", ("a", "b", "c", "d", "e", "f")),
    Fault("two runs at once, one of them killed", one_of_two_killed, 0, "3 done"),
    Fault("disk full to the last byte", full, 8, "Ended at scan 2 of 3: .* disk is full"),
    Fault("no room for one result", writing_fails, 8, "Ended at scan 2 of 3: .* disk is full"),
    Fault("output read-only", read_only, 8, "read-only"),
    Fault("input vanished during the run", vanished, 4, r"b\.nii\.gz.*(vanished|No such file|cannot be read)"),
    Fault("input changed during the run", changed, 4, "changed while it was processed"),
    Fault("a broken scan among others", broken, 4, r"b\.nii\.gz.*"),
    Fault("out of memory", out_of_memory, 7, "does not fit the memory"),
    Fault("out of memory, but smaller windows fit", little_memory, 0, "windows of at most 64", ("a",), slow=True),
    Fault("file system without locks", without_locks, 0, "has no locks"),
    Fault("slow disk", slow_disk, 0, r"looking for scans.*reading .*nii\.gz"),
)
