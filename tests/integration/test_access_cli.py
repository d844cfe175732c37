"""`ccs` and nodes that ask who comes: what people are told when they may not, or believe the wrong ones; and `ccs serve`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from tests.api.secured import authority, tls_node
from tests.support.ccs import CCS, environment

pytestmark = pytest.mark.timeout(180)
ADA = '\n[[certificate]]\nname = "ada"\nrole = "viewer"\nmodels = ["mine-"]\n'


async def ccs(*args: str, cwd: Path, **more: str) -> tuple[int, str]:
    """Exit code and everything that was said, in one line."""
    run = await asyncio.to_thread(
        subprocess.run, [*CCS, *args], cwd=cwd, env=environment() | more, capture_output=True, text=True, timeout=60
    )
    return run.returncode, " ".join((run.stdout + run.stderr).split())


async def test_what_people_are_told(tmp_path):
    certs, other = authority(tmp_path / "certs"), authority(tmp_path / "other")
    async with tls_node(tmp_path, certs, access=ADA, http_client_ca=certs / "ca.crt") as (url, served):
        token = tmp_path / "token"
        token.write_text(served.table.tokens["viewer"])
        token.chmod(0o600)
        base = {"CCS_URL": url, "CCS_CA": str(certs / "ca.crt")}
        known = base | {"CCS_TOKEN_FILE": str(token)}

        code, said = await ccs("whoami", cwd=tmp_path, **known)
        assert 0 == code, said
        assert "viewer" in said

        code, said = await ccs("whoami", cwd=tmp_path, **base)
        assert 1 == code
        assert "--token-file" in said

        code, said = await ccs("model", "create", "m", cwd=tmp_path, **known)
        assert 1 == code
        assert "this needs publisher" in said
        assert "ccs whoami" in said

        code, said = await ccs("whoami", cwd=tmp_path, **known | {"CCS_CA": str(other / "ca.crt")})
        assert 2 == code
        assert "is not believed" in said
        assert "--ca" in said

        code, said = await ccs("whoami", cwd=tmp_path, **known | {"CCS_URL": url.replace("127.0.0.1", "localhost")})
        assert 2 == code
        assert "not valid for 'localhost'" in said

        code, said = await ccs(
            "whoami", "--certificate", str(certs / "ada.crt"), "--key", str(certs / "ada.key"), cwd=tmp_path, **base
        )
        assert 0 == code, said
        assert "mine-…" in said

        code, said = await ccs(
            "whoami", "--certificate", str(other / "ada.crt"), "--key", str(other / "ada.key"), cwd=tmp_path, **base
        )
        assert code in {2, 3}, said
        assert "refused the certificate" in said or "broke the connection off" in said

        token.chmod(0o644)
        code, said = await ccs("whoami", cwd=tmp_path, **known)
        assert 2 == code
        assert "chmod 600" in said

        told = said
        for secret in served.table.tokens.values():
            assert secret not in told


@pytest.mark.parametrize(("more", "starts"), [((), False), (("--insecure",), True)])
def test_a_node_does_not_listen_to_everybody_by_accident(tmp_path, more, starts):
    (tmp_path / "node.toml").write_text(
        'node_id = "n1"\ndata_dir = "data"\nregion_key = "none.pem"\nhttp = "0.0.0.0:18799"\nlog = "memory"\n'
        '[peers.n1]\nraft = "127.0.0.1:18798"\nurl = "http://127.0.0.1:18799"\n'
    )
    run = subprocess.run(
        [*CCS, "serve", "--config", "node.toml", *more],
        cwd=tmp_path,
        env={**environment(), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = " ".join(run.stderr.split())

    assert 2 == run.returncode, "with --insecure it gets as far as the key that is not there"
    assert starts == ("none.pem" in said)
    assert starts != ("--insecure" in said and "access" in said)
    assert not (tmp_path / "data").exists() or starts
    assert os.environ.get("CCS_INSECURE") is None
