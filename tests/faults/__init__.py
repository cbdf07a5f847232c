"""Faults: real servers are killed, paused and cut off while clients chat; a checker judges what they saw.

`make faults` runs it; `python -m tests.faults --help` says how. The parts: `people` chat through the
project's own Python client (`workload`), `world` has the processes and the `proxy` links between them,
`nemesis` does harm, `history` is what was recorded, `checker` judges it and knows nothing of the rest,
`report` prints the table.
"""

import sys
from pathlib import Path

# The client is a package of its own, and not installed here.
_CLIENT = str(Path(__file__).resolve().parents[2] / "clients" / "python")
if _CLIENT not in sys.path:
    sys.path.append(_CLIENT)
