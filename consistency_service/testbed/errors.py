"""What can go wrong with a testbed, in one sentence that says what to do."""

from __future__ import annotations

from consistency_service.errors import ServiceError


class TestbedError(ServiceError):
    """The testbed cannot do what was asked; the text says what happened, to which process, and what to do."""

    __test__ = False  # not a test, in spite of its name
