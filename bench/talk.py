"""One small HTTP request at a time, for control and for asking whether somebody is up."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from bench import traffic


def ask(
    port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, seconds: float = 60.0
) -> tuple[int, Any]:
    """Status and decoded body. Raises OSError or HTTPException when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        content = None if body is None else json.dumps(body, separators=(",", ":"))
        connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        text = reply.read()
        try:
            return reply.status, json.loads(text)
        except ValueError:
            return reply.status, text.decode("utf-8", "replace")
    finally:
        connection.close()


def answers(port: int, key: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether one chat is answered with 200."""
    try:
        status, _ = ask(port, "POST", traffic.PATH, traffic.chat(), {"authorization": f"Bearer {key}", **(headers or {})}, seconds=10.0)
    except (OSError, http.client.HTTPException):
        return False
    return status == 200
