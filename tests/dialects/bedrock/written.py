"""Streams as Bedrock sends them: events of a golden file in the binary framing."""

import json
from pathlib import Path
from typing import Any

from gatehouse.dialects.bedrock.frames import write_message

GOLDEN = Path(__file__).parent / "golden"


def event(name: str, payload: dict[str, Any]) -> bytes:
    """One event of a stream."""
    return write_message(
        {":event-type": name, ":content-type": "application/json", ":message-type": "event"}, json.dumps({**payload, "p": "abcd"}).encode()
    )


def exception(name: str, message: str) -> bytes:
    """A failure inside a stream."""
    headers = {":exception-type": name, ":content-type": "application/json", ":message-type": "exception"}
    return write_message(headers, json.dumps({"message": message}).encode())


def golden_stream(name: str) -> bytes:
    """The stream of a golden file."""
    lines = [json.loads(line) for line in (GOLDEN / "streams" / f"{name}.jsonl").read_text().splitlines()]
    return b"".join(event(kind, payload) for line in lines for kind, payload in line.items())
