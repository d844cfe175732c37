"""The replicated metadata log: pysyncobj's raft, with our commands, files and wire around it.

Nobody outside this package imports anything but these names; nobody but `library` knows the library.
"""

from consistency_service.adapters.raft_log.config import RaftLogConfig, RaftTls
from consistency_service.adapters.raft_log.founding import found
from consistency_service.adapters.raft_log.log import RaftLog
from consistency_service.adapters.raft_log.recovery import Finding, Recovery, recover

__all__ = ["Finding", "RaftLog", "RaftLogConfig", "RaftTls", "Recovery", "found", "recover"]
