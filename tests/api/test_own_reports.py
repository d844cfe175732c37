"""A report counts only for the edge on whose subject it came, whether the bus knows who is who or not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from edge_client.protocol.messages import EdgeReport, ReportReply, decode_region, encode_edge
from edge_client.protocol.subjects import Subjects
from tests.api.served import eventually, one_node
from tests.fakes.bus import Hub, Message

SUBJECTS = Subjects("default")


def report_of(edge_id: str) -> bytes:
    return encode_edge(EdgeReport(edge_id=edge_id, life_id="1", epoch=1, revision=1))


async def test_a_report_in_anothers_name_is_refused_and_counted(tmp_path: Path) -> None:
    async with one_node(tmp_path) as served:
        hub: Hub = served.node.bus.hub  # type: ignore[attr-defined]

        def say(subject: str, edge_id: str) -> None:
            hub.publish(Message(subject=subject, payload=report_of(edge_id), reply_to="_INBOX.e.own.a"))

        def known() -> set[str]:
            return {view.report.edge_id for view in served.node.fleet.view.edges()}

        say(SUBJECTS.report_of("cam-1"), "cam-2")
        say(SUBJECTS.report_of("dock.3"), "dock.3")
        say(SUBJECTS.report, "cam-3")
        await eventually(lambda: {"dock.3", "cam-3"} <= known())

        assert {"dock.3", "cam-3"} == known()
        assert 1 == served.node.counters()["answers.reports_of_another"]
        replies = [message for message in hub.published if message.subject == "_INBOX.e.own.a"]
        await eventually(lambda: [m for m in hub.published if m.subject == "_INBOX.e.own.a"])
        replies = [message for message in hub.published if message.subject == "_INBOX.e.own.a"]
        told = decode_region(replies[0].payload, verifier=served.node._answers._verifier)
        assert isinstance(told, ReportReply) and told.own_subject


async def test_where_the_bus_knows_who_is_who_the_subject_for_all_is_not_heard(tmp_path: Path) -> None:
    async with one_node(tmp_path, run=False) as served:
        node = served.node
        node._answers._bus_knows_edges = replace(node.config, nats_credentials=tmp_path).nats_credentials is not None
        await node.bus.connect()
        listening = asyncio.create_task(node._answers.run())
        await asyncio.sleep(0.05)
        subjects = {inflow.subject for inflow in node.bus.inflows}  # type: ignore[attr-defined]
        listening.cancel()

        assert SUBJECTS.reports in subjects and SUBJECTS.report not in subjects
