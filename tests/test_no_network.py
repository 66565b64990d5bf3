"""medidiff calls nobody: the package names no network library, conftest.py refuses connections in every test, and the
commands work where no socket can be made at all.
"""

import ast
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medidiff.cli import main

PACKAGE = Path(__file__).parents[1] / "medidiff"
CALLERS = {
    *("urllib", "urllib3", "http", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "poplib", "imaplib", "xmlrpc"),
    *("huggingface_hub", "boto3", "pooch", "wget", "paramiko", "websocket", "websockets", "webbrowser"),
    *("sentry_sdk", "posthog", "analytics", "wandb", "mlflow", "opentelemetry"),
}
# of the module `socket`: the machine's name, and a pair of sockets of one process that wakes it up
LOCAL = {"gethostname", "socketpair"}


def test_the_package_imports_no_network_library() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in CALLERS, f"{path.name} imports {name}"
                assert name != "socket" or isinstance(node, ast.Import), f"{path.name} hides what it takes from socket"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "socket":
                assert node.attr in LOCAL, f"{path.name} uses socket.{node.attr}"


def test_connections_out_of_this_machine_are_refused() -> None:
    with socket.socket() as caller, pytest.raises(RuntimeError, match="no network"):
        caller.connect(("192.0.2.1", 80))  # an address kept for documentation, RFC 5737


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts sockets of the network that somebody wants to make, and names that somebody wants to look up."""
    wanted: list[str] = []
    make = socket.socket.__init__

    def refuse(self: socket.socket, family: int = -1, *more: Any, **options: Any) -> None:
        if family in (-1, socket.AF_INET, socket.AF_INET6):
            wanted.append(f"socket of family {family}")
            raise OSError("no sockets")
        make(self, family, *more, **options)

    def look_up(*arguments: Any, **options: Any) -> None:
        wanted.append(f"address of {arguments[0]}")
        raise OSError("no names")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, look_up)
    return wanted


def test_commands_work_without_any_socket(
    fake: Any, scan: Callable[..., Path], tmp_path: Path, no_sockets: list[str]
) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz", shape=(16, 16, 16)), tmp_path / "out"
    mask = scan(tmp_path / "mask.nii.gz", value=-20, shape=(16, 16, 16))
    commands = (
        ("list", "--json"),
        ("info", source),
        ("doctor",),
        ("cite",),
        ("sample-data", tmp_path / "samples"),
        ("denoise", source, "-o", out),
        ("superres", source, "-o", tmp_path / "finer"),
        ("inpaint", source, "-o", tmp_path / "filled", "--mask", mask),
        ("verify", out),
        ("report", out),
        ("evaluate", out, "--reference", source, "-o", tmp_path / "judged"),
    )
    for command in commands:
        assert main([str(part) for part in command]) in (0, 4), command
        assert no_sockets == [], command
