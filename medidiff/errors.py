"""What can go wrong, and the exit code each failure gives.

    MedidiffError
    |-- UsageError          2    the command or an argument is wrong
    |-- NoScanFound         3    nothing in the input can be processed
    |-- ScanError           -    one scan cannot be read or processed (its case fails, the folder goes on)
    |-- PipelineError       6    a pipeline or its weights are missing, damaged or do not fit
    |-- OutOfMemory         7    the scan does not fit the memory, even in small tiles
    |-- CannotWrite         8    the output cannot be written
    `-- VerificationFailed  9    a result could not be reproduced

A message is one plain sentence that names the file and what to do. It never holds a patient's name, ID or date.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

OUT_OF_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class ExitCode(IntEnum):
    """Exit codes of the ``medidiff`` command; part of its contract."""

    OK = 0
    USAGE = 2
    NO_SCAN = 3
    SOME_FAILED = 4
    ALL_FAILED = 5
    PIPELINE = 6
    MEMORY = 7
    CANNOT_WRITE = 8
    VERIFICATION = 9
    INTERRUPTED = 130


EXIT_MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "all cases done",
    ExitCode.USAGE: "the command or an argument is wrong",
    ExitCode.NO_SCAN: "no scan found in the input",
    ExitCode.SOME_FAILED: "some cases failed, the others are done",
    ExitCode.ALL_FAILED: "all cases failed",
    ExitCode.PIPELINE: "a pipeline or its weights are missing or damaged",
    ExitCode.MEMORY: "out of memory",
    ExitCode.CANNOT_WRITE: "the output cannot be written",
    ExitCode.VERIFICATION: "verification failed",
    ExitCode.INTERRUPTED: "interrupted",
}


class MedidiffError(Exception):
    """Base of all errors that medidiff raises on purpose; ``str(error)`` is one sentence for a person."""

    exit_code: ExitCode = ExitCode.ALL_FAILED


class UsageError(MedidiffError):
    """The command or an argument is wrong."""

    exit_code = ExitCode.USAGE


class NoScanFound(MedidiffError):
    """Nothing in the input can be processed.

    Attributes:
        left_out: the files that are no scan, each with its reason.
    """

    exit_code = ExitCode.NO_SCAN

    def __init__(self, text: str, left_out: Sequence[tuple[Path, str]] = ()) -> None:
        super().__init__(text)
        self.left_out = tuple(left_out)


class ScanError(MedidiffError):
    """One scan cannot be read or processed; the other scans of a folder go on."""

    exit_code = ExitCode.ALL_FAILED


class PipelineError(MedidiffError):
    """A pipeline or its weights are missing, damaged, or do not fit the request."""

    exit_code = ExitCode.PIPELINE


class OutOfMemory(MedidiffError):
    """The scan does not fit the memory, even in small tiles."""

    exit_code = ExitCode.MEMORY


class CannotWrite(MedidiffError):
    """The output cannot be written.

    Attributes:
        everywhere: whether that holds for every output: the disk is full, or read-only.
    """

    exit_code = ExitCode.CANNOT_WRITE
    everywhere = False


class VerificationFailed(MedidiffError):
    """A result could not be reproduced."""

    exit_code = ExitCode.VERIFICATION


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the host or on the accelerator; torch is not needed to tell."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in OUT_OF_MEMORY_PHRASES)
