"""A node takes as many files as it may have, whatever its shell gave it to begin with."""

from __future__ import annotations

import subprocess
import sys

RAISED = """
import resource
from consistency_service import app
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
app._raise_file_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    subprocess.run([sys.executable, "-c", RAISED], check=True, timeout=60)
