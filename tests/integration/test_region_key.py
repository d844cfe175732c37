"""The region's key on a real file system."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from consistency_service.adapters import region_key
from consistency_service.errors import ConfigError
from edge_client.protocol.envelope import Signer, Verifier


def test_what_the_private_key_signs_the_public_line_verifies(tmp_path):
    private, public = tmp_path / "keys" / "region.key", tmp_path / "handed-out" / "region.pub"
    region_key.generate(private, public)

    frame = Signer(region_key.load_private(private)).sign(b"payload")

    assert Verifier.from_trust(public.read_text()).open(frame, bytes_max=1_000) == b"payload"
    assert private.stat().st_mode & 0o777 == 0o600 and private.parent.stat().st_mode & 0o777 == 0o700
    assert public.read_text().startswith("ccs-region-key ed25519 ") and public.read_text().count("\n") == 1
    assert [p.name for p in private.parent.iterdir()] == ["region.key"]  # nothing temporary stays


def test_a_key_is_never_overwritten(tmp_path):
    private, public = tmp_path / "region.key", tmp_path / "region.pub"
    region_key.generate(private, public)
    before = private.read_bytes(), public.read_bytes()

    with pytest.raises(ConfigError, match="never overwritten"):
        region_key.generate(private, public)

    assert (private.read_bytes(), public.read_bytes()) == before


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_open_to_others_is_refused_with_the_remedy(tmp_path, mode):
    private = tmp_path / "region.key"
    region_key.generate(private, tmp_path / "region.pub")
    private.chmod(mode)

    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.*chmod 600"):
        region_key.load_private(private)


def test_what_is_no_ed25519_key_is_refused(tmp_path):
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "key"
    for content in (b"", b"nonsense", b"\x00" * 100_000, other):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match="holds"):
            region_key.load_private(path)
    with pytest.raises(ConfigError, match="cannot read"):
        region_key.load_private(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot write"):
        region_key.generate(path / "below-a-file" / "key", tmp_path / "region.pub")
