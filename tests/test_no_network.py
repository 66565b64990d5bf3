"""medidiff calls nobody: the package names no network library, and conftest.py refuses connections in every test."""

import ast
import socket
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medidiff"
CALLERS = {"urllib", "http", "requests", "httpx", "aiohttp", "huggingface_hub", "ftplib", "smtplib", "boto3", "pooch"}


def test_the_package_imports_no_network_library() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in CALLERS, f"{path.name} imports {name}"


def test_connections_out_of_this_machine_are_refused() -> None:
    with socket.socket() as caller, pytest.raises(RuntimeError, match="no network"):
        caller.connect(("192.0.2.1", 80))  # an address kept for documentation, RFC 5737
