"""Turn whatever went wrong with a scan into one sentence for a person, and into one of medidiff's errors."""

from __future__ import annotations

from medidiff.errors import CannotWrite, MedidiffError, OutOfMemory, is_out_of_memory
from medidiff.scans.outputs import DISK_ERRORS
from medidiff.scans.volume import ScanRef

TEXT_LIMIT = 400


def classified(error: BaseException) -> BaseException:
    """The error as one of medidiff's own, where its nature is known."""
    if isinstance(error, MedidiffError):
        return error
    if is_out_of_memory(error):
        return _chained(OutOfMemory("out of memory"), error)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return _chained(CannotWrite(f"The result cannot be written: {DISK_ERRORS[error.errno]}."), error)
    return error


def sentence(error: BaseException, ref: ScanRef) -> str:
    """Why a case failed: names the scan, says what to do, and fits one line.

    The text of an unexpected error on a DICOM series is withheld: libraries quote header values in it.
    """
    if isinstance(error, MedidiffError):
        text = one_line(str(error))
        return text if ref.path.name in text else one_line(f"{ref.path}: {text}")
    if is_out_of_memory(error):
        return f"{ref.path} does not fit the memory; free some, use a machine with more, or try --device cpu."
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"The result of {ref.path} cannot be written: {DISK_ERRORS[error.errno]}."
    if isinstance(error, OSError) and error.strerror:
        return f"{ref.path} could not be processed: {error.strerror}; check the file and the folder."
    kind = type(error).__name__
    text = one_line(str(error))
    why = kind if ref.kind == "dicom" or not text else f"{kind}: {text}"
    return f"{ref.path} failed unexpectedly ({why}); run again with -vv for details and please report it."


def one_line(text: str) -> str:
    """The text on one line, cut to a readable length."""
    joined = " ".join(text.split())
    return joined if len(joined) <= TEXT_LIMIT else joined[: TEXT_LIMIT - 3] + "..."


def _chained(error: MedidiffError, cause: BaseException) -> MedidiffError:
    error.__cause__ = cause
    return error
