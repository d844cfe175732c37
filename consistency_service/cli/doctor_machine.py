"""What the doctor sees on this machine: clocks, disk, files, limits. Reads much and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from consistency_service.adapters.certificates import load_certificate
from consistency_service.adapters.region_key import load_private
from consistency_service.cli.doctor_findings import Finding, fine, warning, wrong
from consistency_service.config import ServiceConfig
from consistency_service.errors import ConfigError, ServiceError
from edge_client.protocol.models import Terms

STEADY: Final = frozenset({"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen"})
CLOCK_SOURCE: Final = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
MEMORY_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
RATE_WATCHED_S: Final = 2.0
SUSPENDED_S: Final = 1.0
SYNCS: Final = 15
SYNC_SLOW_MS, SYNC_BAD_MS = 20.0, 250.0
SPACE_BYTES_MIN, SPACE_BYTES_LOW = 256 << 20, 2 << 30
DESCRIPTORS_MIN, DESCRIPTORS_LOW = 1_024, 4_096
MEMORY_BYTES_MIN: Final = 512 << 20
EXPIRY_SOON: Final = timedelta(days=30)


def look_at_machine(
    *, clock_source: Path = CLOCK_SOURCE, memory_limits: tuple[Path, ...] = MEMORY_LIMITS
) -> Iterator[Finding]:
    """Of any machine, a node's or an edge's."""
    if sys.platform != "linux":
        yield wrong("platform", f"this is {sys.platform}")
        return
    yield fine("platform", f"Linux {os.uname().release}")
    yield from _clock_source(clock_source)
    yield clock_rate(watched_s=RATE_WATCHED_S)
    yield suspension(slept_s=time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())
    yield descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield from _memory(memory_limits)


def _clock_source(path: Path) -> Iterator[Finding]:
    try:
        source = path.read_text().strip()
    except OSError:
        return
    if source in STEADY:
        yield fine("clock-source", source)
    else:
        yield warning("clock-source", f"{source}: slow to read, and less steady than {sorted(STEADY)[-2]}")


def clock_rate(*, watched_s: float, rho_ppm: int = Terms().rho_ppm) -> Finding:
    """Whether somebody slews the clock, against the one that nobody touches."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    time.sleep(watched_s)
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    return judged_rate((after[0] - before[0]) / (after[1] - before[1]), rho_ppm=rho_ppm)


def judged_rate(rate: float, *, rho_ppm: int) -> Finding:
    """`rate` 1 is that of the clock that nobody touches; nodes and edges give up `strong` 100 ppm below `rho_ppm`."""
    off_ppm = abs(rate - 1) * 1e6
    text = f"slewed by {off_ppm:.0f} ppm, of {rho_ppm} ppm assumed"
    return wrong("clock-rate", text) if off_ppm > rho_ppm - 100 else fine("clock-rate", text)


def suspension(*, slept_s: float) -> Finding:
    """`slept_s`: how long the machine has been suspended since it was started."""
    if slept_s > SUSPENDED_S:
        return warning("suspended", f"this machine was suspended for {slept_s:.0f} s since it was started")
    return fine("suspended", "never since it was started")


def descriptors(limit: int) -> Finding:
    """`limit`: to how many a node raises what it was given, when this shell starts it."""
    if limit == resource.RLIM_INFINITY:
        return fine("descriptors", "any number of open files")
    text = f"{limit} open files for a node started here"
    if limit < DESCRIPTORS_MIN:
        return wrong("descriptors", text)
    return warning("descriptors", text) if limit < DESCRIPTORS_LOW else fine("descriptors", text)


def _memory(paths: tuple[Path, ...]) -> Iterator[Finding]:
    for path in paths:
        try:
            said = path.read_text().strip()
        except OSError:
            continue
        if said.isdigit() and int(said) < MEMORY_BYTES_MIN:
            yield wrong("memory-limit", f"{int(said) >> 20} MiB for everything in this container or slice")
            return
    yield fine("memory-limit", "none that is too small")


# ---- of a node's settings


def look_at_node(config: ServiceConfig, *, now: datetime | None = None) -> Iterator[Finding]:
    """Files and disk of the node with these settings."""
    yield from _data_dir(config.data_dir)
    yield from _keys(config)
    certificates = {"raft_ca": config.raft_ca, "raft_certificate": config.raft_certificate}
    certificates |= {"http_certificate": config.http_certificate, "http_client_ca": config.http_client_ca}
    certificates |= {"nats_ca": config.nats_ca, "nats_certificate": config.nats_certificate, "http_ca": config.http_ca}
    for name, path in certificates.items():
        if path is not None:
            yield expiry(name, path, now=now or datetime.now(tz=UTC))
    yield lease_settings(config)


def _data_dir(path: Path) -> Iterator[Finding]:
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield wrong("data-dir", f"{path}: this user cannot write {place}")
        return
    if path.exists() and path.stat().st_mode & 0o022:
        yield warning("data-dir", f"{path}: others may write it")
    else:
        yield fine("data-dir", str(path) if path.exists() else f"{path} will be made")
    room = os.statvfs(place)
    yield space(room.f_bavail * room.f_frsize, path=path)
    try:
        yield latency(sync_ms(place), path=path)
    except OSError as error:
        yield wrong("data-dir", f"{place}: cannot write: {error.strerror}")


def space(free_bytes: int, *, path: Path) -> Finding:
    text = f"{free_bytes / (1 << 30):.1f} GiB free for {path}"
    if free_bytes < SPACE_BYTES_MIN:
        return wrong("disk-space", text)
    return warning("disk-space", text) if free_bytes < SPACE_BYTES_LOW else fine("disk-space", text)


def sync_ms(directory: Path) -> list[float]:
    """How long it takes until 4 KiB are on the disk, several times. Raises `OSError`."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".ccs-doctor-") as file:
        taken = []
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(bytes(4_096))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1_000)
    return taken


def latency(taken_ms: list[float], *, path: Path) -> Finding:
    """Of the middle one and the worst."""
    middle = sorted(taken_ms)[len(taken_ms) // 2]
    text = f"a write reaches the disk of {path} in {middle:.1f} ms, at worst {max(taken_ms):.0f} ms"
    if middle > SYNC_BAD_MS:
        return wrong("disk-latency", text)
    return warning("disk-latency", text) if middle > SYNC_SLOW_MS else fine("disk-latency", text)


def _keys(config: ServiceConfig) -> Iterator[Finding]:
    try:
        load_private(config.region_key)
        yield fine("key-permissions", str(config.region_key))
    except ConfigError as error:
        yield wrong("key-permissions", f"region_key: {error}")
    secret = {"raft_key": config.raft_key, "http_key": config.http_key, "nats_key": config.nats_key}
    for name, path in (secret | {"nats_credentials": config.nats_credentials}).items():
        if path is None:
            continue
        try:
            with path.open("rb"):
                mode = path.stat().st_mode
        except OSError as error:
            yield wrong("key-permissions", f"{name}: {path}: {error.strerror}")
            continue
        if mode & 0o077:
            yield wrong("key-permissions", f"{name}: others may read {path} (mode {mode & 0o777:o})")
        else:
            yield fine("key-permissions", str(path))


def expiry(name: str, path: Path, *, now: datetime) -> Finding:
    """Of the first certificate in a file."""
    try:
        until = load_certificate(path).not_valid_after_utc
    except (ServiceError, OSError, ValueError) as error:
        return wrong("certificate-expiry", f"{name}: {path}: {error}")
    text = f"{name}: {path} until {until:%Y-%m-%d}"
    if until <= now:
        return wrong("certificate-expiry", text)
    return warning("certificate-expiry", text) if until - now < EXPIRY_SOON else fine("certificate-expiry", text)


def lease_settings(config: ServiceConfig) -> Finding:
    """Whether a lease outlives an election, and settings leave room for a missed beacon or two."""
    if config.lease_ms < 2 * config.election_ms_max + 4 * config.beacon_interval_ms:
        return warning(
            "lease-settings",
            f"a lease of {config.lease_ms} ms does not outlive an election of up to {config.election_ms_max} ms and the beacons "
            "missed meanwhile: edges lose strong whenever a leader dies",
        )
    return fine("lease-settings", f"lease {config.lease_ms} ms, margin {config.margin_ms} ms")


def port_is_free(address: str) -> bool:
    """Whether this machine could listen there. Raises `OSError` for a host that is none of its own."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            if error.errno in {98, 48}:
                return False
            raise
    return True
