"""The topology of docker-compose.yml as processes on this machine: the same programs, configuration files and environment.

    python -m ops.compose.local [--directory DIR] [--without-sites] [--observability]

Nothing is written twice: the plan is made from the file. Of what a container would be told, three things are replaced, each by
where it is here: `name:port` and a service's own port by a free port of 127.0.0.1, paths of mounts by directories and files
here, programs by those installed. What has no program here (Grafana, the collector) is left out. It becomes a testbed: watch
it, hurt it and end it with `ccs testbed status|kill|restart|down -d DIR`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from consistency_service.testbed import supervisor
from consistency_service.testbed.binaries import find_nats_server, find_redis_server
from consistency_service.testbed.errors import TestbedError
from consistency_service.testbed.topology import ProcessSpec, Ready, ReadyKind, TestbedConfig, Topology
from ops.compose import file
from ops.compose.file import ROOT, Service

DIRECTORY: Final = Path(".testbed-compose")
HOST: Final = "127.0.0.1"
OWN_HOSTS: Final = ("0.0.0.0", HOST, "localhost")
RENDERED: Final = ("prometheus",)
"""Programs that read no environment: addresses are put into a copy of their files."""
READY_TIMEOUT_MS: Final = 90_000
PREPARE_TIMEOUT_S: Final = 60
CHECK_TIMEOUT_S: Final = 10


class Here:
    """Where everything of a compose file is on this machine."""

    def __init__(self, services: Mapping[str, Service], *, directory: Path, ports: Iterator[int]) -> None:
        self.services = services
        self.directory = directory
        self._free = ports
        self._ports: dict[tuple[str, int], int] = {}
        self._owner = {name: service.name for service in services.values() for name in service.names}

    def port(self, service: str, number: int) -> int:
        """Where a port of a container is."""
        if (service, number) not in self._ports:
            self._ports[service, number] = next(self._free)
        return self._ports[service, number]

    def ports_of(self, service: str) -> tuple[int, ...]:
        return tuple(port for (name, _), port in self._ports.items() if name == service)

    def paths(self, service: Service) -> dict[str, Path]:
        """Where each mounted path of a container is."""
        found = dict(service.image_files)
        for target in service.tmpfs:
            found[target] = self.directory / "tmpfs" / service.name / target.strip("/").replace("/", "-")
        for mount in service.mounts:
            if mount.kind == "volume":
                found[mount.target] = self.directory / "volumes" / mount.source / mount.subpath
            elif Path(service.argv[0]).name in RENDERED and (ROOT / mount.source).is_file():
                found[mount.target] = self.directory / "rendered" / service.name / Path(mount.source).name
            else:
                found[mount.target] = (ROOT / mount.source).resolve()
        return found

    def text(self, service: Service, text: str) -> str:
        """What the container would be told, as it is true here."""
        paths = self.paths(service)
        hosts = "|".join(re.escape(name) for name in sorted({*self._owner, *OWN_HOSTS}, key=len, reverse=True))
        targets = "|".join(re.escape(path) for path in sorted(paths, key=len, reverse=True)) or r"(?!)"
        pattern = rf"(?<![\w.-])(?:(?P<host>{hosts}):(?P<port>\d+)\b|(?P<path>{targets})(?![\w.-]))"

        def here(found: re.Match[str]) -> str:
            if found["path"]:
                return str(paths[found["path"]])
            owner = self._owner.get(found["host"], service.name)
            return f"{HOST}:{self.port(owner, int(found['port']))}"

        if text.isdigit() and int(text) in service.expose:
            return str(self.port(service.name, int(text)))
        return HOST if text == OWN_HOSTS[0] else re.sub(pattern, here, text)

    def argv(self, service: Service, argv: tuple[str, ...]) -> tuple[str, ...]:
        """A command with programs, addresses and paths of this machine. Raises `TestbedError`."""
        program = programs_of(argv[0])
        if program is None:
            raise TestbedError(f"{argv[0]} is not installed here")
        return (*program, *(self.text(service, word) for word in argv[1:]))

    def environment(self, service: Service) -> dict[str, str]:
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        path = os.pathsep.join((str(find_nats_server().parent), os.environ.get("PATH", os.defpath)))
        told = {name: self.text(service, value) for name, value in service.environment.items()}
        return {"PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1", "PATH": path, **told}

    def furnish(self, service: Service) -> None:
        """Its directories are there, and copies of the files that must name this machine's ports."""
        paths = self.paths(service)
        for mount in service.mounts:
            if mount.kind == "volume":
                paths[mount.target].mkdir(parents=True, exist_ok=True, mode=0o700)
            elif paths[mount.target].is_relative_to(self.directory):
                paths[mount.target].parent.mkdir(parents=True, exist_ok=True)
                source = (ROOT / mount.source).read_text(encoding="utf-8")
                paths[mount.target].write_text(self.text(service, source), encoding="utf-8")
        for target in service.tmpfs:
            paths[target].mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.directory / "run" / service.name).mkdir(parents=True, exist_ok=True)


def programs_of(name: str) -> tuple[str, ...] | None:
    """How to run here what a container calls `name`; None if that is not installed."""
    match Path(name).name:
        case "python":
            return (sys.executable,)
        case "ccs":
            return (sys.executable, "-m", "consistency_service")
        case "nats-server":
            return (str(find_nats_server()),)
        case "redis-server":
            return (str(find_redis_server()),)
        case program:
            found = shutil.which(program)
            return None if found is None else (found,)


def chosen(services: Mapping[str, Service], *, profiles: Collection[str]) -> dict[str, Service]:
    """What runs here: of these profiles, in an image that names its program, and installed."""
    return {
        name: service
        for name, service in services.items()
        if (not service.profiles or set(service.profiles) & set(profiles))
        if service.argv and not service.argv[0].startswith("-") and programs_of(service.argv[0]) is not None
    }


class ComposePlan:
    """A testbed's plan, made from the compose file."""

    def __init__(self, *, profiles: Collection[str] = ("sites",)) -> None:
        self._profiles = profiles
        self._here: Here | None = None
        self.specs: dict[str, ProcessSpec] = {}
        """What the latest plan consists of, by name."""

    def __call__(self, config: TestbedConfig, ports: Iterator[int]) -> Topology:
        """The topology on free ports; what only prepares has been run. Raises `TestbedError`."""
        everything = file.read(environment=os.environ)
        here = self._here = Here(everything, directory=config.directory, ports=ports)
        services = chosen(everything, profiles=self._profiles)
        for service in services.values():
            here.furnish(service)
        for name in [name for name in services if is_passing(name, services)]:
            run_once(here, services.pop(name))
        specs: list[ProcessSpec] = []
        while services:
            planned = {spec.name for spec in specs}
            due = [each for each in services.values() if not (each.depends_on.keys() & services.keys()) - planned]
            if not due:
                raise TestbedError(f"these services wait for each other: {', '.join(services)}")
            specs += [_spec(here, services.pop(service.name), known=planned) for service in due]
        self.specs = {spec.name: spec for spec in specs}
        return Topology(
            directory=str(config.directory),
            processes=tuple(specs),
            log_bytes_max=config.log_bytes_max,
            ready_timeout_ms=config.ready_timeout_ms,
        )

    def healthy(self, name: str) -> bool | None:
        """What the health check of a service says; None where it has none, or what it asks with is not installed."""
        assert self._here is not None, "planned first"
        service = self._here.services[name]
        if service.healthcheck is None or programs_of(service.healthcheck[0]) is None:
            return None
        result = subprocess.run(
            self._here.argv(service, service.healthcheck),
            env={**os.environ, **self._here.environment(service)},
            capture_output=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
        return result.returncode == 0


def is_passing(name: str, services: Mapping[str, Service]) -> bool:
    """Whether others wait for this one to end."""
    return any(each.depends_on.get(name) == "service_completed_successfully" for each in services.values())


def run_once(here: Here, service: Service) -> None:
    """It ran and ended well. Raises `TestbedError`."""
    result = subprocess.run(
        here.argv(service, service.argv),
        env={**os.environ, **here.environment(service)},
        cwd=here.directory / "run" / service.name,
        capture_output=True,
        text=True,
        timeout=PREPARE_TIMEOUT_S,
        check=False,
    )
    if result.returncode != 0:
        raise TestbedError(f"{service.name} ended with exit code {result.returncode}: {result.stderr.strip()[-2_000:]}")


def _spec(here: Here, service: Service, *, known: set[str]) -> ProcessSpec:
    environment = here.environment(service)
    status = next((value for name, value in environment.items() if name.endswith("STATUS_FILE")), None)
    if status is not None:
        ready = Ready(kind=ReadyKind.FILE, target=status)
    else:
        ready = Ready(kind=ReadyKind.PORT, target=str(here.port(service.name, service.expose[0])))
    argv = here.argv(service, service.argv)
    url = f"https://{environment['CCS_HTTP']}" if "CCS_HTTP_CERTIFICATE" in environment else None
    return ProcessSpec(
        name=service.name,
        argv=argv,
        env=environment,
        cwd=str(here.directory / "run" / service.name),
        ready=ready,
        depends_on=tuple(name for name in service.depends_on if name in known),
        ports=here.ports_of(service.name),
        url=url,
    )


def main() -> int:
    """Bring it up and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m ops.compose.local", description="docker-compose.yml as processes.")
    parser.add_argument("--directory", "-d", type=Path, default=DIRECTORY)
    parser.add_argument("--without-sites", action="store_true", help="the region alone")
    parser.add_argument("--observability", action="store_true", help="Prometheus as well, if it is installed")
    arguments = parser.parse_args()
    profiles = [*([] if arguments.without_sites else ["sites"]), *(["observability"] * arguments.observability)]
    config = TestbedConfig(directory=arguments.directory, nodes=3, edges=0, ready_timeout_ms=READY_TIMEOUT_MS)
    try:
        state = supervisor.up(config, progress=print, plan=ComposePlan(profiles=profiles))
    except TestbedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    secrets = config.directory / "volumes" / "secrets"
    print(f"export CCS_URL={','.join(state.urls('node-'))}")
    print(f"export CCS_CA={secrets / 'node-1' / 'ca.crt'} CCS_TOKEN_FILE={secrets / 'people' / 'admin'}")
    print(f"ccs testbed status -d {arguments.directory}; ccs testbed down -d {arguments.directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
