"""A supervisor over toy ranks, as a process of its own: `python toy_job.py RANKS DEADLINE FAULTS RUN_DIR JSON`.

RUN_DIR: a folder, or `auto`. Ends with the job's exit code.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from genlock.engine.supervisor import supervise
from genlock.settings import Deadlines, faults_from

if __name__ == "__main__":
    ranks, deadline, faults, run_dir, told = sys.argv[1:]
    os.environ["GENLOCK_FAULTS"] = faults
    told = json.dumps({"deadline": float(deadline)} | json.loads(told))
    code = supervise(
        [sys.executable, str(Path(__file__).with_name("toy_rank.py")), told],
        mesh=int(ranks),
        deadlines=Deadlines(answer_s=float(deadline), deliver_s=4.0, load_s=5.0),
        run_dir=None if run_dir == "auto" else Path(run_dir),
        faults=faults_from(faults),
    )
    assert "torch" not in sys.modules
    sys.exit(code)
