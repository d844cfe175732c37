"""A transcript is commands with what they printed below `----`; here they are carried out.

    # Why this must be so.
    run ms=1000
    ----
    n1: candidate in term 1

Each block is one command: a verb, then nodes and `name=value`. `COMMANDS` is the list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from consistency_service.adapters.raft_log import frames, membership
from consistency_service.adapters.raft_log.changes import refusal
from consistency_service.errors import LogStorageError
from tests.interaction.raft_log.voters import Voters, described
from tests.support.forgetful_disk import PowerCut

Arguments = dict[str, str]


class Stage:
    """The voters of one transcript; `nodes` makes them."""

    voters: Voters

    def perform(self, line: str) -> list[str]:
        """What one command printed; `ok` if nothing happened."""
        verb, *words = line.split()
        names = [word for word in words if "=" not in word]
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if verb == "nodes":
            numbers = {name: int(value) for name, value in options.items()}
            self.voters = Voters(*names, **numbers)
        with self.voters.clock():
            COMMANDS[verb](self.voters, names, options)
        printed, self.voters.trace = self.voters.trace, []
        return printed or ["ok"]


def nodes(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.start(name)


def start(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        try:
            voters.start(name)
        except LogStorageError as error:
            voters.seats[name].replica = None
            voters.say(f"{name}: refuses to start: {error}")


def talk(voters: Voters, names: list[str], _: Arguments) -> None:
    voters.talk = names == ["on"]


def run(voters: Voters, _: list[str], options: Arguments) -> None:
    voters.run(int(options["ms"]))


def pass_time(voters: Voters, _: list[str], options: Arguments) -> None:
    """The clock moves and nobody is looking."""
    voters.now_ms += int(options["ms"])


def tick(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.tick(name)


def deliver(voters: Voters, names: list[str], options: Arguments) -> None:
    link = (names[0], names[1]) if names else None
    voters.deliver(only=link, count=int(options.get("count", "10000")))


def impatient(voters: Voters, names: list[str], _: Arguments) -> None:
    """The election deadline of these nodes is now; the others have heard nobody for a second either if all are named."""
    for name in names:
        replica = voters.seats[name].replica
        assert replica is not None
        replica.voter.elections._deadline_ns = 0
    for name in names:
        voters.tick(name)


def stand(voters: Voters, names: list[str], _: Arguments) -> None:
    """Without asking around."""
    replica = voters.seats[names[0]].replica
    assert replica is not None
    replica.voter._standing = True
    voters.tick(names[0])


def cut_during_write(voters: Voters, names: list[str], _: Arguments) -> None:
    """The machine stops while its slow disk works: the write was begun, the sync was not."""
    seat = voters.seats[names[0]]
    seat.disk.cut_at = len(seat.disk.steps) + 1
    with contextlib.suppress(PowerCut):
        seat.worker.work()
    voters.stop(names[0])


def recover(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.recover(name)


def propose(voters: Voters, names: list[str], _: Arguments) -> None:
    name, *texts = names
    for text in texts:
        voters.propose(name, text)


def fill(voters: Voters, names: list[str], options: Arguments) -> None:
    """Many commands one after another, and nothing of it printed."""
    for number in range(int(options["count"])):
        voters.propose(names[0], f"{options.get('prefix', 'c')}{number}")
        voters.deliver()
        voters.run(10)
    voters.trace = [line for line in voters.trace if "applies" not in line]


def read(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.read(name)


def cut(voters: Voters, names: list[str], options: Arguments) -> None:
    """Silence, noticed by nobody; `way=one` from the first node to the second alone."""
    voters.cut.add((names[0], names[1]))
    if options.get("way") != "one":
        voters.cut.add((names[1], names[0]))


def isolate(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        for other in voters.seats:
            if other != name:
                voters.cut |= {(name, other), (other, name)}


def connect_only(voters: Voters, names: list[str], _: Arguments) -> None:
    """The cut between these two is mended."""
    voters.cut -= {(names[0], names[1]), (names[1], names[0])}


def heal(voters: Voters, _: list[str], __: Arguments) -> None:
    voters.cut.clear()


def disconnect(voters: Voters, names: list[str], _: Arguments) -> None:
    voters.disconnect(names[0], names[1])


def connect(voters: Voters, names: list[str], _: Arguments) -> None:
    voters.connect(names[0], names[1])


def keep(voters: Voters, names: list[str], _: Arguments) -> None:
    voters.keep(names[0], names[1])
    for source, target, message in voters.kept:
        voters.say(f"kept: {source} -> {target} {described(message)}")


def replay(voters: Voters, _: list[str], __: Arguments) -> None:
    voters.replay()
    voters.deliver()


def again(voters: Voters, _: list[str], __: Arguments) -> None:
    """What was kept last, and replayed since, arrives once more."""
    voters.kept = list(voters.replayed)
    voters.replay()
    voters.deliver(only=voters.replayed[0][:2])


def stall(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.seats[name].stalled = True


def wake(voters: Voters, names: list[str], _: Arguments) -> None:
    """The timer first: what waits in the links has not been read."""
    for name in names:
        voters.seats[name].stalled = False
        voters.tick(name)


def kill(voters: Voters, names: list[str], _: Arguments) -> None:
    for name in names:
        voters.stop(name)


def power_cut(voters: Voters, names: list[str], options: Arguments) -> None:
    for name in names:
        voters.power_cut(name, contents=options.get("contents", "dropped"), names=options.get("names", "synced"))


def disk(voters: Voters, names: list[str], options: Arguments) -> None:
    """`full=yes|no`, `slow=yes|no`, `done=1`: what a slow disk was given is there now."""
    seat = voters.seats[names[0]]
    if "full" in options:
        seat.disk.full = options["full"] == "yes"
    if "slow" in options:
        seat.worker.slow = options["slow"] == "yes"
    if "done" in options or options.get("slow") == "no":
        seat.worker.work()


def damage(voters: Voters, names: list[str], options: Arguments) -> None:
    """One byte of a file is another; a negative offset counts from the end."""
    inode = voters.seats[names[0]].disk.names[f"/virtual/{names[1]}"]
    inode.data[int(options["offset"])] ^= 0x55
    inode.synced = bytes(inode.data)


def resign(voters: Voters, names: list[str], _: Arguments) -> None:
    replica = voters.seats[names[0]].replica
    assert replica is not None
    heir = names[1] if len(names) > 1 else None
    named = replica.voter.hand_over(heir=heir, hold_ns=2_000_000_000, now_ns=int(voters.now_ms * 1e6))
    voters.say(f"{names[0]}: hands over to {named}")
    voters.tick(names[0])


def join(voters: Voters, names: list[str], _: Arguments) -> None:
    """An empty node that waits to be added."""
    for name in names:
        voters.join(name)


def tell(voters: Voters, names: list[str], _: Arguments) -> None:
    """The settings of the first node name the others too, from its next start."""
    name, *others = names
    voters.seats[name].settings = voters.founders | dict.fromkeys(others, "127.0.0.1:1")


def members(voters: Voters, names: list[str], _: Arguments) -> None:
    """`members n1 learner|voter|remove n4`: what a leader is told, if nothing refuses it."""
    name, verb, whom = names
    replica = voters.seats[name].replica
    assert replica is not None
    before = replica.roster.members
    match verb:
        case "learner":
            table = before.with_learner(whom, raft="127.0.0.1:1", url="")
        case "voter":
            table = before.with_vote(whom)
        case _:
            table = before.without(whom)
    refused = refusal(table, replica=replica, config=replica._config)
    if refused is not None:
        voters.say(f"{name}: refuses, {refused.code}: {refused.reason}")
        return
    frame = frames.Frame(kind=frames.KIND_MEMBERS, life=0, number=0, payload=membership.encode(table))
    replica.append_members(frames.encode(frame))
    voters.tick(name)


def status(voters: Voters, _: list[str], __: Arguments) -> None:
    for name in voters.seats:
        voters.say(voters.described_node(name))


COMMANDS: dict[str, Callable[[Voters, list[str], Arguments], None]] = {
    "again": again,
    "connect": connect,
    "connect-only": connect_only,
    "cut": cut,
    "damage": damage,
    "cut-during-write": cut_during_write,
    "deliver": deliver,
    "disconnect": disconnect,
    "disk": disk,
    "fill": fill,
    "heal": heal,
    "impatient": impatient,
    "isolate": isolate,
    "join": join,
    "keep": keep,
    "kill": kill,
    "members": members,
    "nodes": nodes,
    "pass-time": pass_time,
    "power-cut": power_cut,
    "propose": propose,
    "read": read,
    "recover": recover,
    "replay": replay,
    "resign": resign,
    "run": run,
    "stall": stall,
    "stand": stand,
    "start": start,
    "status": status,
    "talk": talk,
    "tell": tell,
    "tick": tick,
    "wake": wake,
}


def performed(path: Path) -> str:
    """The transcript as it reads when its commands are carried out now."""
    stage = Stage()
    lines: list[str] = []
    for block in path.read_text().split("\n\n"):
        asked = [line for line in block.partition("\n----")[0].splitlines() if line]
        lines += asked
        command = [line for line in asked if not line.startswith("#")]
        if command:
            lines += ["----", *stage.perform(command[0])]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
