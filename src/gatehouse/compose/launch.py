"""How the inner processes are started: the same interpreter, the same package, our own secrets kept out of their environment."""

import sys
from pathlib import Path

from gatehouse.processes.steward import WorkerCommand
from gatehouse.processes.supervisor import Launch
from gatehouse.settings import worker_environment


def worker_command(data_dir: Path) -> WorkerCommand:
    """Starts `python -m gatehouse _worker`; the descriptors are inherited under their numbers."""
    environment = worker_environment()

    def launch(incarnation: str, steward: int, listener: int) -> Launch:
        words = ("-m", "gatehouse", "_worker", incarnation, str(steward), str(listener), str(data_dir))
        return Launch((sys.executable, *words), environment, keep=(listener,), hand_over=(steward,))

    return launch
