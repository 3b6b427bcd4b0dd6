"""How the inner processes are started: the same interpreter, the same package, our own secrets kept out of their environment."""

import sys
from pathlib import Path

from gatehouse.compose.plans import embeds, engine_name
from gatehouse.processes.engine_hosts import EngineCommand, EngineSpec
from gatehouse.processes.steward import WorkerCommand
from gatehouse.processes.supervisor import Launch
from gatehouse.settings import Settings, worker_environment


def worker_command(data_dir: Path) -> WorkerCommand:
    """Starts `python -m gatehouse _worker`; the descriptors are inherited under their numbers."""
    environment = worker_environment()

    def launch(incarnation: str, steward: int, listener: int) -> Launch:
        words = ("-m", "gatehouse", "_worker", incarnation, str(steward), str(listener), str(data_dir))
        return Launch((sys.executable, *words), environment, keep=(listener,), hand_over=(steward,))

    return launch


def engine_command() -> EngineCommand:
    """Starts `python -m gatehouse _engine`."""
    environment = worker_environment()

    def launch(socket: Path, spec: EngineSpec) -> Launch:
        words = (
            "-m",
            "gatehouse",
            "_engine",
            str(socket),
            spec.file,
            str(spec.slots),
            str(spec.context),
            *(("embeds",) if spec.embeds else ()),
        )
        return Launch((sys.executable, *words), environment)

    return launch


def engine_specs(settings: Settings) -> dict[str, EngineSpec]:
    """The hosts that the settings' targets need, by the name their targets know them under."""
    return {
        engine_name(target): EngineSpec(target.path or "", target.slots or 0, target.context_window or 0, embeds(target))
        for model in settings.models
        for target in model.targets
        if target.engine is not None
    }
