"""What a testbed needs before anything can run: ports, keys, files, and somebody to keep it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from consistency_service.adapters import certificates, region_key
from consistency_service.testbed.binaries import find_nats_server, find_redis_server
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.processes import Identity, free_ports
from consistency_service.testbed.state import Lock, Phase, State, log_path, write_state
from consistency_service.testbed.topology import (
    Plan,
    Programs,
    TestbedConfig,
    Topology,
    certificates_path,
    key_paths,
    node_names,
    plan_region,
)

RENEW_BEFORE: Final = timedelta(days=30)


def prepare(config: TestbedConfig, lock: Lock, *, plan: Plan | None) -> Topology:
    """The plan on free ports, its directories, files, keys and certificates in place. On an error, `lock` is released."""
    try:
        with free_ports() as ports:
            topology = (plan or _region_plan())(config, ports)
        private, public = key_paths(config.directory)
        key = region_key.load_private(private) if private.exists() else region_key.generate(private, public)
        region_key.write_public(key, public)
        make_certificates(config, now=datetime.now(tz=UTC))
        for name in topology.directories:
            Path(name).mkdir(parents=True, exist_ok=True)
        for file in topology.files:
            Path(file.path).parent.mkdir(parents=True, exist_ok=True)
            Path(file.path).write_text(file.text, encoding="utf-8")
            Path(file.path).chmod(file.mode)
    except OSError as error:
        lock.release()
        raise TestbedError(f"cannot prepare {config.directory}: {error}") from error
    except BaseException:
        lock.release()
        raise
    return topology


def make_certificates(config: TestbedConfig, *, now: datetime) -> None:
    """Every node has a certificate that is good for a while. Raises `ConfigError`, or `TestbedError` for another region's."""
    directory = certificates_path(config.directory)
    authority = certificates.authority_files(directory)
    if not authority.key.exists() or not authority.certificate.exists():
        authority.key.unlink(missing_ok=True)
        authority.certificate.unlink(missing_ok=True)
        certificates.create_authority(directory, cluster_id=config.region, now=now)
    region = certificates.cluster_of(certificates.load_certificate(authority.certificate))
    if region != config.region:
        raise TestbedError(f"{directory} belongs to region {region!r}; remove it, or use another directory")
    for name in node_names(config):
        files = certificates.node_files(directory, name)
        whole = files.key.exists() and files.certificate.exists()
        if whole and certificates.load_certificate(files.certificate).not_valid_after_utc > now + RENEW_BEFORE:
            continue
        files.key.unlink(missing_ok=True)
        files.certificate.unlink(missing_ok=True)
        certificates.issue(directory, node_id=name, hosts=("localhost", "127.0.0.1"), now=now)


def _region_plan() -> Plan:
    programs = Programs(
        python=sys.executable,
        nats_server=str(find_nats_server()),
        redis_server=str(find_redis_server()),
        python_path=_python_path(),
    )
    return functools.partial(plan_region, programs=programs)


def launch(topology: Topology, *, lock: Lock) -> None:
    """A supervisor process owns `lock` and the topology from now on."""
    directory = Path(topology.directory)
    try:
        path = directory / "topology.json"
        path.write_bytes(msgspec.json.encode(topology))
        # Written here first, so that there is never a moment with a lock and nothing to read.
        write_state(
            State(
                directory=topology.directory,
                phase=Phase.STARTING,
                supervisor=Identity.of(os.getpid()),
                embedded=True,  # until the supervisor has written itself in: nobody is to be killed for it
                processes=(),
            )
        )
        (directory / "logs").mkdir(exist_ok=True)
        with log_path(directory, "supervisor").open("ab") as output:
            subprocess.run(
                [sys.executable, "-m", "consistency_service.testbed.keeper", str(path), str(lock.descriptor)],
                pass_fds=(lock.descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": _python_path()},
                check=True,
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise TestbedError(f"cannot start the testbed's supervisor: {error}") from error
    finally:
        lock.release()


def _python_path() -> str:
    """Where our packages are, so that they are found from any directory, installed or not."""
    return os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
