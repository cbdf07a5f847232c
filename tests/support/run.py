"""Run the tests on both backends: `python -m tests.support.run [what pytest takes]`.

PostgreSQL and Redis are started once and ended at the end. CHATBE_TEST_BACKEND names one backend to
run on it alone; CHATBE_TEST_PROCESSES says how many processes share the work (by default one more than there are cores,
since many tests wait).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.support.backends import BACKENDS, Backend, BackendError, Servers, chosen
from tests.support.servers import ServerError

_NO_TESTS = 5


def main(arguments: list[str]) -> int:
    """Returns 0 when all passed, else pytest's exit code of the first backend that failed."""
    try:
        backends = (chosen(),) if os.environ.get("CHATBE_TEST_BACKEND") else BACKENDS
        codes = [_run(backend, arguments) for backend in backends]
    except (BackendError, ServerError) as error:
        print(error, file=sys.stderr)
        return 2
    # Chosen tests may be about one backend only; but some must have run.
    failed = [code for code in codes if code not in (0, _NO_TESTS)]
    return failed[0] if failed else min(codes)


def _run(backend: Backend, arguments: list[str]) -> int:
    what = {"embedded": "SQLite and memory", "cluster": "PostgreSQL and Redis"}[backend]
    print(f"\n== tests on {what} ({backend})", flush=True)
    started = time.monotonic()
    servers = Servers()
    try:
        if backend == "cluster":
            servers.start()
        processes = os.environ.get("CHATBE_TEST_PROCESSES") or str((os.cpu_count() or 1) + 1)
        command = [sys.executable, "-m", "pytest", "-n", processes, "--dist", "worksteal", *arguments]
        code = subprocess.run(
            command, check=False, env={**os.environ, "CHATBE_TEST_BACKEND": backend}
        ).returncode
    finally:
        servers.close()
    print(f"== tests on {backend} took {time.monotonic() - started:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
