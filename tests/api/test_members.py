"""Members over REST: three nodes that become others while anybody may be asked."""

from __future__ import annotations

import pytest

from tests.api.served import eventually, one_node, three_nodes

pytestmark = pytest.mark.timeout(60)


async def test_members_are_changed_at_any_node_and_asked_for_urls(tmp_path):
    async with three_nodes(tmp_path) as region:
        follower = next(name for name, node in region.nodes.items() if not node.metadata.log.status().leading)
        http = region.callers[follower]

        answer = await http.post("/v1/cluster/transfer", json={"node_id": follower})
        assert (200, {"heir": follower}) == (answer.status_code, answer.json())
        await eventually(lambda: region.nodes[follower].metadata.log.status().term_settled)
        removed = await http.delete(f"/v1/cluster/members/{follower}")
        assert 200 == removed.status_code, removed.text
        left = sorted(region.nodes.keys() - {follower})
        assert left == [member["node_id"] for member in removed.json()["members"]]

        other = region.callers[left[0]]
        again = await other.delete(f"/v1/cluster/members/{follower}")
        assert 200 == again.status_code
        shown = (await other.get("/v1/cluster")).json()
        assert left == [one["node_id"] for one in shown["nodes"]]
        assert left == [member["node_id"] for member in (await other.get("/v1/cluster/self")).json()["members"]]


WRONG = (
    ("DELETE", "/v1/cluster/members/n9", None, (404, "unknown_member")),
    ("POST", "/v1/cluster/transfer", {"node_id": "n9"}, (404, "unknown_member")),
    ("POST", "/v1/cluster/members", {"node_id": "n9", "raft": "nowhere", "url": "http://x"}, (422, "invalid_member")),
    ("POST", "/v1/cluster/members", {"node_id": "n9", "raft": "h:1", "url": "ftp://x"}, (422, "invalid")),
    ("POST", "/v1/cluster/members", {"node_id": "N 9", "raft": "h:1", "url": "http://x"}, (422, "invalid")),
    ("POST", "/v1/cluster/members", {"node_id": "n1", "raft": "h:1", "url": "http://x"}, (409, "member_exists")),
    ("POST", "/v1/cluster/transfer", {"heir": "n1"}, (422, "invalid")),
)


async def test_what_cannot_be_is_a_problem(tmp_path):
    async with three_nodes(tmp_path) as region:
        for method, path, body, expected in WRONG:
            answer = await region.callers["n1"].request(method, path, json=body)

            assert expected == (answer.status_code, answer.json()["type"].removeprefix("urn:ccs:problem:")), (
                path,
                body,
            )


async def test_a_log_in_memory_stays_alone(tmp_path):
    async with one_node(tmp_path) as region:
        await eventually(lambda: region.node.metadata.log.status().leading)
        body = {"node_id": "n2", "raft": "h:1", "url": "http://x"}
        asked = await region.http.post("/v1/cluster/members", json=body)
        handed = await region.http.post("/v1/cluster/transfer", json={})

        assert (409, "urn:ccs:problem:fixed_membership") == (asked.status_code, asked.json()["type"])
        assert (409, "urn:ccs:problem:last_voter") == (handed.status_code, handed.json()["type"])
