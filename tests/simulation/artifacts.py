"""Artifacts that are not what they are called: the real `Downloads` between sources, tier and disk that alter bytes.

Nothing here is a matter of time, so a seed is a dozen steps: something is altered, or somebody wants a version. What
`obtain` returns must be the bytes that the digest names; an error is always allowed.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from edge_client.errors import EdgeError
from edge_client.protocol.digest import Digest
from edge_client.protocol.models import Version
from edge_client.runtime.downloads import Downloads
from edge_client.runtime.tier import Tier
from tests.fakes.artifact_source import FakeArtifactSource
from tests.fakes.local_tier import Box, FakeLocalTier
from tests.simulation.judge import Violation
from tests.simulation.result import Result

STEPS = 24
SIZE_BYTES_MAX = 4_000


def play_artifacts(seed: int, **_: Any) -> Result:
    """Play one seed."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_play(Random(f"artifacts {seed}"), seed, Path(directory)))


async def _play(rng: Random, seed: int, directory: Path) -> Result:
    contents = [rng.randbytes(rng.randrange(1, SIZE_BYTES_MAX)) for _ in range(3)]
    versions = [
        Version(version=f"{n}.0.0", digest=str(Digest.of(content)), size_bytes=len(content))
        for n, content in enumerate(contents, start=1)
    ]
    source = FakeArtifactSource(artifacts={v.digest: content for v, content in zip(versions, contents, strict=True)})
    box = Box()
    downloads = Downloads(
        directory=directory,
        bytes_max=1 << 20,
        source=source,
        tier=Tier(FakeLocalTier(namespace="e", box=box)),
        urls=lambda: ("http://a", "http://b"),
        rng=rng,
        clock=None,  # type: ignore[arg-type]  # nothing is paced
    )
    result = Result(seed=seed, violations=[], virtual_ns=0, healed_ns=None, step_count=STEPS, seen={})
    for step in range(STEPS):
        number = rng.randrange(len(versions))
        version, content = versions[number], contents[number]
        place = rng.choice(("source", "source again", "tier", "disk", "cut", "nowhere", "nowhere"))
        if place == "source":
            source.artifacts[version.digest] = _altered(content, rng)
        elif place == "source again":
            source.artifacts[version.digest] = content
        elif place == "cut":
            source.cut_after_bytes = rng.choice((None, rng.randrange(1, SIZE_BYTES_MAX)))
        elif place == "tier" and ("e", version.digest) in box.blobs:
            box.blobs["e", version.digest] = [_altered(content, rng)]
        elif place == "disk" and (file := directory / version.digest.removeprefix("sha256:")).exists():
            file.write_bytes(_altered(content, rng))
        try:
            path = await downloads.obtain(version)
        except EdgeError:
            result.seen["refused"] = result.seen.get("refused", 0) + 1
            continue
        result.seen["obtained"] = result.seen.get("obtained", 0) + 1
        if path.read_bytes() != content:
            result.violations.append(Violation("digest", step, f"{version.version} is not what its digest names"))
    return result


def _altered(content: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes((content[at] ^ 1 << rng.randrange(8),)) + content[at + 1 :]
