"""An engine host's parts: one model file, one engine, one socket."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from gatehouse.adapters.engines.gguf import ModelFileRefused
from gatehouse.adapters.system import SystemClock
from gatehouse.processes.engine_host import Engine, EngineHost

logger = logging.getLogger("gatehouse.engine")


def engine_main(words: list[str]) -> None:
    """`python -m gatehouse _engine SOCKET FILE SLOTS CONTEXT [embeds]`; slots and context 0 are the engine's defaults."""
    path, file, slots, context = Path(words[0]), words[1], int(words[2]), int(words[3])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s %(levelname)s %(name)s[{os.getpid()}]: %(message)s")
    _end_with_the_steward()
    uvloop.run(_serve(path, file, slots, context, embeds=words[4:] == ["embeds"]))


async def _serve(path: Path, file: str, slots: int, context: int, *, embeds: bool) -> None:
    from gatehouse.adapters.engines.embedder import LlamaEmbedder
    from gatehouse.adapters.engines.llamacpp import LlamaEngine
    from gatehouse.models import builtin_path

    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    # An interrupt goes to the whole group of a terminal; the steward tells when to stop.
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
    model = builtin_path() if file == "builtin" else Path(file)
    load = LlamaEmbedder if embeds else LlamaEngine
    engine: LlamaEmbedder | LlamaEngine | None = None
    problem = ""
    try:
        engine = await asyncio.to_thread(load, model, slots=slots or None, context=context or None)
    except ModelFileRefused as error:
        problem = f"{model.name}: {error}"
        logger.error("the model cannot be served: %s", problem)
    served: Engine | None = engine
    host = EngineHost(served, problem, SystemClock())
    await host.start(path)
    await stopping.wait()
    await host.close()
    if engine is not None:
        engine.close()
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    # Threads of native code may be in the middle of a token; there is nothing left to wait for.
    logging.shutdown()
    os._exit(0)


def _end_with_the_steward() -> None:
    """Ask the kernel to end this process when the steward dies, whatever kills it (Linux: prctl PR_SET_PDEATHSIG)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)
