"""What `gunicorn --preload` does, in a few lines: the parent connects, children are forked, and each answers for itself."""

import json
import os
import sys

from workers import answer, edge  # the parent connects here, before the fork

print("parent", json.loads(answer())["edge"] == edge.edge_id, flush=True)
children = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        told = json.loads(answer())  # the first use in a child connects anew, and waits for the model
        unique = told["edge"].endswith(f".{os.getpid()}")
        print("child", unique, told["version"], told["guarantee"] in {"strong", "bounded"}, flush=True)
        edge.close()
        os._exit(0)
    children.append(pid)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children))
