"""Times the start of a new process: a script run by the Python whose start is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import protocol

FIRST_BATCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "first_batch.py")


class Starts:
    """The handlers."""

    def facts(self, cores: int) -> protocol.Answer:
        """Pin this process to the cores."""
        protocol.use_cores(cores)
        return {}

    def start(self, **settings: Any) -> protocol.Answer:
        """Start Python on `first_batch` and wait until it reports the batch."""
        # With this set, modules would be compiled in each process: it would not be a second start.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        clock = protocol.Clock()
        command = [sys.executable, FIRST_BATCH, json.dumps(settings)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
            assert child.stdout is not None
            line = child.stdout.readline()
            seconds = clock.seconds()
        if child.returncode:
            raise RuntimeError(f"first_batch.py ended with status {child.returncode}")
        return clock.answer() | {"seconds": seconds} | json.loads(line)


if __name__ == "__main__":
    protocol.serve(Starts())
