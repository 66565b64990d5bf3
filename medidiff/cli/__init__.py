"""The ``medidiff`` command: flags become settings, settings become a run; there is no other logic here."""

from medidiff.cli.app import main

__all__ = ["main"]
