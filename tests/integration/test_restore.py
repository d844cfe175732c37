"""A region backed up under load, lost, and restored on a bare machine, while survivors of the old one are about."""

from __future__ import annotations

import pytest

from ops.bench import restore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_edges_follow_by_themselves_and_nothing_of_the_old_region_mixes_in():
    figures = restore.measure(edges=2, load_s=2)

    assert [figure.line() for figure in figures if not figure.holds] == []
