"""What a process has, as Linux tells it (proc(5)). Each raises `OSError` for one that is gone."""

from __future__ import annotations

from pathlib import Path


def status_of(pid: int, field: str) -> int:
    """A number of `/proc/PID/status`, such as `Threads`, or `VmRSS` in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def resident_bytes(pid: int) -> int:
    return status_of(pid, "VmRSS") * 1_024


def descriptor_count(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
