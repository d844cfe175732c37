"""A shell as a reader's terminal: what is typed into it, and what it shows."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

MARK = "\x1e"


class Terminal:
    """One bash; variables, directory and background jobs live as long as it does. Its output is one stream, as on a screen."""

    def __init__(self, *, cwd: Path, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = bytearray()
        self._grown = threading.Condition()
        self._seen = 0
        self._count = 0
        threading.Thread(target=self._read, daemon=True).start()

    def type(self, command: str) -> None:
        """Begin a command, and wait for nothing."""
        self._count += 1
        assert self._process.stdin is not None
        line = f"eval {shlex.quote(command)} </dev/null; printf '{MARK}{self._count} %s{MARK}' $?\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def run(self, command: str, *, within_s: float) -> tuple[int, str]:
        """Exit code and output of a command, once it has ended. Raises `TimeoutError`."""
        begun = len(self._output)
        self.type(command)
        mark = f"{MARK}{self._count} "

        def ended() -> bool:
            text = self.text(begun)
            return mark in text and text.endswith(MARK)

        self.wait(ended, within_s=within_s, what=command, begun=begun)
        output, _, code = self.text(begun).rpartition(mark)
        self._seen = len(self._output)
        return int(code.rstrip(MARK)), output

    def text(self, begun: int = 0) -> str:
        """What was shown since."""
        return bytes(self._output[begun:]).decode(errors="replace")

    def new_text(self) -> str:
        """What was shown since `forget`."""
        return self.text(self._seen)

    def forget(self) -> None:
        """What was shown until now does not count any more."""
        self._seen = len(self._output)

    def wait(self, condition, *, within_s: float, what: str, begun: int = 0) -> None:
        """Until the condition holds, looked at whenever something is shown. Raises `TimeoutError` that quotes the end."""
        deadline = time.monotonic() + within_s
        with self._grown:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not within {within_s:g} s: {what}\n{self.text(begun)[-3000:]}")
                self._grown.wait(min(left, 0.5))

    def idle(self) -> bool:
        """Whether the last command that was typed has ended."""
        return f"{MARK}{self._count} " in self.text()

    def interrupt(self) -> None:
        """Ctrl-C for what runs in it."""
        for pid in self._children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    def close(self) -> None:
        """End it, and everything that was started in it and is still of its session."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
                break

    def _children(self) -> list[int]:
        pid = self._process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]

    def _read(self) -> None:
        assert self._process.stdout is not None
        while chunk := os.read(self._process.stdout.fileno(), 65_536):
            with self._grown:
                self._output += chunk
                self._grown.notify_all()
