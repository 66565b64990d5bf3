"""Fuzzing guided by coverage: damages what led to new lines of medidiff, nibabel and pydicom before.

    pip install atheris
    python -m benchmarks.fuzz_atheris NIfTI --seconds 300

The seeds, the damage and what counts as wrong are those of `benchmarks.fuzz`. It stops at the first thing that is wrong
and leaves the damaged file in ``crash-*`` in the working folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["medidiff.scans", "medidiff.runs", "medidiff.config", "nibabel", "pydicom"]):
    from benchmarks import fuzz_mutate, fuzz_targets
    from benchmarks.fuzz_targets import SHARES, Place

LARGEST = 1 << 20  # bytes of an input


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=SHARES)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medidiff-fuzz-")))
        stack.enter_context(fuzz_targets.stand_in(home))
        kind = fuzz_targets.kinds(home, None)[options.kind]
        corpus = home / "corpus"
        corpus.mkdir()
        for number, (files, name) in enumerate(kind.seeds):
            (corpus / str(number)).write_bytes(bytes([number]) + files[name])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

        def once(data: bytes) -> None:
            """The first byte of an input names the seed whose other files go along."""
            if data:
                files, name = kind.seeds[data[0] % len(kind.seeds)]
                place = Place(fuzz_targets.cleared(home / "work"), Random(len(data)))
                fuzz_targets.attempt(kind, {**files, name: data[1:]}, place)

        def damage(data: bytes, most: int, seed: int) -> bytes:
            rng = Random(seed)
            number = data[0] % len(kind.seeds) if data else rng.randrange(len(kind.seeds))
            files, name = kind.seeds[number]
            try:
                made = fuzz_mutate.by_name(name)(data[1:] or files[name], rng, [files[name]])
            except (ValueError, EOFError, OSError, RecursionError, zlib.error):  # its format is lost
                made = fuzz_mutate.anywhere(data[1:], rng, [files[name]])
            return (bytes([number]) + made)[:most]

        flags = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", f"-max_len={LARGEST}", "-timeout=60"]
        atheris.Setup([sys.argv[0], *flags, "-rss_limit_mb=4096", str(corpus)], once, custom_mutator=damage)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
