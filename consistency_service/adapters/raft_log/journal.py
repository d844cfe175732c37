"""The log on disk, and the vote: what this node has promised, kept through power cuts.

Picture a strip of records that only grows at its end, and a mark on it: *durable through*. Appending costs memory; a
`begin_sync` moves the mark, at once on a fast disk, later and by a thread on a slow one; nobody may be told of an entry
beyond the mark. One sync covers whatever was appended while the one before was under way. A full disk stops the mark and
nothing else: what waits is kept and tried again. There is no commit index here: an old one would be believed.

When the beginning goes, a thread writes the rest into a shorter file; the next sync adds to it what came meanwhile, and
the shorter file takes over. So that a log of any length costs whoever waits for a sync no more than a second one.

The vote alone is always written on the loop. Nothing that this node may say in the meantime is worth more: it follows
nobody yet, and nobody follows it. So are the journal that goes with a snapshot from the leader, usually two entries long,
and the end that is torn off, for they decide what the next message is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, overload

from consistency_service.adapters.raft_log import disk, frames, records
from consistency_service.adapters.raft_log.disk import Files, OpenFile
from consistency_service.adapters.raft_log.records import Entry
from consistency_service.adapters.raft_log.vote import VoteFile
from consistency_service.adapters.raft_log.worker import Job, NoWorker, Worker
from consistency_service.errors import LogStorageError

REMEDY: Final = (
    "if the other voters hold a quorum, run `ccs cluster recover` on this node's directory and start it again; "
    "otherwise restore the directory from a copy of this node's own disk"
)


@dataclass(slots=True)
class _Shorter:
    """A file without the beginning, which may take the journal's place."""

    first_index: int
    last_index: int
    job: Job
    """Its writing."""
    published: bool = False


class Journal:
    """Shaped as the library expects its journal, names included. Raises `LogStorageError` on damage.

    An `OSError` that lack of room does not explain must end the process: what the disk holds is not known after it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        node_id: str,
        files: Files,
        worker: Worker | None = None,
        rewriter: Worker | None = None,
    ) -> None:
        """`worker` syncs. `rewriter`, by default the same, writes shorter files, for which no sync has to wait then."""
        self._path = directory / "journal"
        self._files = files
        self._worker = worker or NoWorker()
        self._rewriter = rewriter or self._worker
        self._rewriting: Job | None = None
        self._shorter: _Shorter | None = None
        self._entries: list[Entry] = []
        self._offsets: list[int] = []
        self._durable_end = len(records.MAGIC)
        self._durable_count = 0
        self._flight: tuple[Job, int, int] | None = None
        self._dirty = False
        self.members_entries: list[tuple[int, bytes]] = []
        """Those of the entries held that are tables of members, with their index."""
        self.repaired_bytes = 0
        self.rewrite_failure_count = 0
        self.full = False
        """The last attempt to write found no room. What waits is tried again by `begin_sync`."""
        files.unlink(self._new_path)
        data = files.read(self._path)
        self._vote = VoteFile(directory / "vote", node_id=node_id, files=files, remedy=REMEDY)
        self._refuse_half(data, directory=directory)
        if data is None:
            data = records.MAGIC
            self._publish(data)
        self._file: OpenFile = files.open(self._path)
        try:
            self._recover(data)
        except BaseException:
            self._file.close()
            self._vote.close()
            raise

    # What the library calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        entry = (command, idx, term)
        self._offsets.append(self._end)
        self._entries.append(entry)
        if command.startswith(frames.MEMBERS_PREFIX):
            self.members_entries.append((idx, command))

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        return self._entries[place]

    def __len__(self) -> int:
        return len(self._entries)

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803
        """The end is gone, in the file too, before anything is written in its place."""
        if entryFrom >= len(self._entries):
            return
        first_cut = self._entries[entryFrom][1]
        self._settle()
        self._shorter = None
        entryFrom = first_cut - self._entries[0][1]  # noqa: N806
        cut = self._offsets[entryFrom]
        self.members_entries = [held for held in self.members_entries if held[0] < first_cut]
        del self._entries[entryFrom:]
        del self._offsets[entryFrom:]
        if cut < self._durable_end or self._dirty:
            self._durable_end = min(cut, self._durable_end)
            self._durable_count = min(entryFrom, self._durable_count)
            self._file.truncate(self._durable_end)
            self._file.sync()
            self._dirty = False
        self.full = self.full and self._held_in_memory

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803
        """The beginning is gone, durably, once a shorter file is there; without room for that it stays. See `trimming`."""
        kept = self._entries[entryTo:]
        if entryTo > 0 and kept and not self.trimming:
            self._rewriting = self._rewriter.start(partial(self._write_new, kept))
            self._shorter = _Shorter(first_index=kept[0][1], last_index=kept[-1][1], job=self._rewriting)
            if self._rewriting.done:
                self.begin_sync(inline=True)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        """Not kept."""

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        """Durable on return, and so before any message speaks of it."""
        self._vote.write(term=term, voted_for=votedForNodeId, rejoining=self.rejoining)

    def getCurrentTerm(self) -> int:  # noqa: N802
        return self._vote.value.term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802
        return self._vote.value.voted_for

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """Nothing is put off."""

    def _destroy(self) -> None:
        self.close()

    # What we call.

    @property
    def rejoining(self) -> bool:
        return self._vote.value.rejoining

    def rejoined(self) -> None:
        """This node votes and counts again, durably."""
        vote = self._vote.value
        self._vote.write(term=vote.term, voted_for=vote.voted_for, rejoining=False)

    @property
    def durable_through(self) -> int:
        """Index of the last entry that survives a power cut; 0 if none does."""
        return self._entries[self._durable_count - 1][1] if self._durable_count > 0 else 0

    @property
    def syncing(self) -> bool:
        return self._flight is not None

    @property
    def waiting(self) -> bool:
        """A sync has something to do: entries are held in memory alone, or a shorter file is there to take over."""
        return self._held_in_memory or (self._shorter is not None and self._shorter.job.done)

    @property
    def trimming(self) -> bool:
        """The beginning is about to go."""
        return self._shorter is not None

    def size_bytes(self, *, through: int) -> int:
        """Of the records up to and including this index; 0 if it is not held."""
        place = through - self._entries[0][1] if self._entries else -1
        if not 0 <= place < len(self._entries):
            return 0
        return self._offsets[place] + records.size_bytes(self._entries[place]) - self._offsets[0]

    def begin_sync(self, *, inline: bool) -> None:
        """What was added is on its way to the disk; with `inline`, and no sync under way, it is there or `full` is set."""
        if self._flight is not None or not self.waiting:
            return
        worker = NoWorker() if inline else self._worker
        if self._shorter is not None and self._shorter.job.done:
            if self._written(self._shorter.job):
                self._begin_take_over(self._shorter, worker=worker)
                return
            self._shorter = None
            if not self._held_in_memory:
                return
        ground, count = self._durable_end, len(self._entries)
        data = b"".join(records.encode(entry, ground=ground) for entry in self._entries[self._durable_count :])
        file = self._file

        def write() -> None:
            file.write(data, offset=ground)
            file.sync()

        self._flight = (worker.start(write), count, ground + len(data))
        self.finish_nowait()

    def finish_nowait(self) -> bool:
        """Whether a sync under way has ended. Raises its `OSError`, unless room would cure it: see `full`."""
        if self._flight is None or not self._flight[0].done:
            return False
        (job, count, end), self._flight = self._flight, None
        if self._shorter is not None and self._shorter.job is job:
            self._take_over(self._shorter, count=count, end=end)
        elif job.error is None:
            self._durable_count, self._durable_end = count, end
            self._dirty = self.full = False
        elif isinstance(job.error, OSError) and job.error.errno in disk.FULL:
            self._dirty = self.full = True
        else:
            raise job.error
        return True

    def sync(self) -> None:
        """Everything added so far is durable, unless `full`."""
        self._settle()
        self.begin_sync(inline=True)

    def replace(self, entries: list[Entry]) -> bool:
        """The journal holds exactly these entries, durably and in one step; False, and nothing changed, without room."""
        if not self.prepare(entries):
            return False
        self.adopt(entries)
        return True

    def prepare(self, entries: list[Entry]) -> bool:
        """A file that could take the journal's place is on the disk; False without room for it."""
        self._settle()
        self._shorter = None
        if self._rewriting is not None:
            self._rewriting.wait()
        self._rewriting = NoWorker().start(partial(self._write_new, entries))
        return self._written(self._rewriting)

    def adopt(self, entries: list[Entry]) -> None:
        """The file prepared of these entries is the journal."""
        self._settle()
        disk.publish(self._files, self._new_path, target=self._path)
        self._file.close()
        self._file = self._files.open(self._path)
        self._dirty = self.full = False
        self._take(entries)

    def entry_at(self, index: int) -> Entry | None:
        """The entry of this log index, if it is held."""
        place = index - self._entries[0][1] if self._entries else -1
        return self._entries[place] if 0 <= place < len(self._entries) else None

    def entries_from(self, index: int, *, bytes_max: int) -> list[Entry]:
        """Consecutive entries, the last being the one that reaches `bytes_max`."""
        entries: list[Entry] = []
        size_bytes = 0
        entry = self.entry_at(index)
        while entry is not None and size_bytes < bytes_max:
            entries.append(entry)
            size_bytes += len(entry[0])
            entry = self.entry_at(entry[1] + 1)
        return entries

    def close(self) -> None:
        """What can be made durable is."""
        self.sync()
        self._file.close()
        self._vote.close()

    def check_invariants(self) -> None:
        assert len(self._entries) == len(self._offsets) >= self._durable_count
        place = self._durable_count
        assert self._durable_end == (self._offsets[place] if place < len(self._offsets) else self._end)
        assert self._shorter is None or self._entries[0][1] < self._shorter.first_index <= self._shorter.last_index

    @property
    def _held_in_memory(self) -> bool:
        return self._durable_count < len(self._entries)

    @property
    def _end(self) -> int:
        return self._offsets[-1] + records.size_bytes(self._entries[-1]) if self._entries else len(records.MAGIC)

    @property
    def _new_path(self) -> Path:
        return self._path.with_suffix(".new")

    def _settle(self) -> None:
        """No sync is under way."""
        if self._flight is not None:
            self._flight[0].wait()
            self.finish_nowait()

    def _write_new(self, entries: list[Entry]) -> None:
        disk.write_pieces(self._files, self._new_path, pieces=records.file_pieces(entries))

    def _written(self, job: Job) -> bool:
        """Whether a file to take the journal's place is there; False, and it is not, for lack of room."""
        if job.error is None:
            return True
        if not isinstance(job.error, OSError) or job.error.errno not in disk.FULL:
            raise job.error
        self._files.unlink(self._new_path)
        self.rewrite_failure_count += 1
        return False

    def _begin_take_over(self, shorter: _Shorter, *, worker: Worker) -> None:
        """Everything that the shorter file lacks is on its way into it, and its name after that."""
        first = self._entries[0][1]
        place, last_place = shorter.first_index - first, shorter.last_index - first
        count, shift = len(self._entries), self._offsets[place] - len(records.MAGIC)
        ground = self._offsets[last_place] + records.size_bytes(self._entries[last_place]) - shift
        data = b"".join(records.encode(entry, ground=ground) for entry in self._entries[last_place + 1 :])
        files, new_path, path = self._files, self._new_path, self._path

        def take_over() -> None:
            file = files.open(new_path)
            try:
                file.write(data, offset=ground)
                file.sync()
            finally:
                file.close()
            shorter.published = True
            disk.publish(files, new_path, target=path)

        shorter.job = worker.start(take_over)
        self._flight = (shorter.job, count, ground + len(data))
        self.finish_nowait()

    def _take_over(self, shorter: _Shorter, *, count: int, end: int) -> None:
        self._shorter = None
        if not shorter.published and not self._written(shorter.job):
            return
        if shorter.job.error is not None:
            raise shorter.job.error
        place = shorter.first_index - self._entries[0][1]
        shift = self._offsets[place] - len(records.MAGIC)
        self._file.close()
        self._file = self._files.open(self._path)
        self._dirty = self.full = False
        del self._entries[:place]
        self._offsets = [offset - shift for offset in self._offsets[place:]]
        self.members_entries = [held for held in self.members_entries if held[0] >= shorter.first_index]
        self._durable_count, self._durable_end = count - place, end

    def _publish(self, data: bytes) -> None:
        disk.write_file(self._files, self._new_path, data=data)
        disk.publish(self._files, self._new_path, target=self._path)

    def _take(self, entries: list[Entry]) -> None:
        """The file holds these and nothing else."""
        self._entries, self._offsets, self.members_entries = [], [], []
        for command, index, term in entries:
            self.add(command, index, term)
        self._durable_count, self._durable_end = len(self._entries), self._end

    def _refuse_half(self, data: bytes | None, *, directory: Path) -> None:
        if data is not None and self._vote.is_new:
            self._files.unlink(directory / "vote")
            raise LogStorageError(f"{directory / 'vote'} is missing beside a journal; {REMEDY}")
        if data is None and self._vote.value.term > 0:
            raise LogStorageError(f"{self._path} is missing beside a vote of term {self._vote.value.term}; {REMEDY}")

    def _recover(self, data: bytes) -> None:
        try:
            found = records.decode_file(data)
        except records.DamageError as error:
            raise LogStorageError(f"{self._path}: {error}; {REMEDY}") from error
        self._take(found.entries)
        if found.end < len(data):
            self.repaired_bytes = len(data) - found.end
            self._file.truncate(found.end)
        self._file.sync()
