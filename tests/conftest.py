"""What every test may rely on: properties are tried in the same order every time, and long enough to mean something."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A machine shared by many makes a deadline per example a coin toss; pytest-timeout bounds the whole test.
settings.register_profile(
    "default", deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", parent=settings.get_profile("default"), derandomize=False, max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
