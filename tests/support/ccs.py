"""`ccs` as a program: run to its end, or on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

CCS = (sys.executable, "-m", "consistency_service")
ROOT = Path(__file__).resolve().parents[2]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment() -> dict[str, str]:
    """Ours, without settings of `ccs`, and with an author."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CCS_") and name != "COLUMNS"}
    return kept | {"PYTHONPATH": str(ROOT), "CCS_AUTHOR": "ada", "TERM": "xterm-256color"}


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`ccs` with these arguments, run to its end."""
    return subprocess.run([*CCS, *args], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=120)


def on_terminal(*args: str, cwd: Path, width: int) -> tuple[int, str]:
    """Exit code, and everything that reached a terminal of this width, without its colours."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        os.execve(sys.executable, [*CCS, *args], environment())
    output = b""
    while True:
        try:
            chunk = os.read(terminal, 65_536)
        except OSError:  # the other end is gone
            break
        if not chunk:
            break
        output += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), ESCAPES.sub("", output.decode())
