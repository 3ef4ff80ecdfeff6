"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
PASSWORD = "not-to-be-seen"


@contextmanager
def running_server() -> Iterator[str]:
    """Its URL, without a schema: each test has one of its own."""
    binaries, folder = BINARIES[-1].parent, Path(tempfile.mkdtemp(prefix="polyclinic-pg-"))
    # The server refuses to run as root.
    user = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(folder, **user)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    data = folder / "data"

    def run(*words: object) -> None:
        subprocess.run([str(word) for word in words], check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(binaries / "initdb", "-D", data, "-U", "clinic", "-A", "scram-sha-256", "--pwfile", password, "-N")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    run(binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql+pg8000://clinic:{PASSWORD}@127.0.0.1:{port}/postgres"
    finally:
        run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
