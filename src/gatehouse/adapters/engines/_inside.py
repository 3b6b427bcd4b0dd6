"""The Unix socket that llama.cpp's server listens on: in a private directory, under a random key, for questions only we ask."""

import http.client
import secrets
import socket
import tempfile
from typing import Any

import msgspec

from gatehouse.core.engine_messages import EngineRefused


class Inside:
    """Where a server of this process can be asked what its handlers do not tell."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="gatehouse-engine-")
        self.socket = f"{self._folder.name}/e.sock"
        self.key = secrets.token_hex(24)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """POST `body`; the decoded answer. Blocks for a moment. Raises EngineRefused."""
        connection = _UnixConnection(self.socket)
        try:
            headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
            connection.request("POST", path, msgspec.json.encode(body), headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise EngineRefused("engine_failed", "The embedded model cannot read this prompt.", caller_fault=response.status == 400)
        return msgspec.json.decode(content)

    def tokens(self, *pieces: str | tuple[int, ...]) -> int:
        """How many tokens texts and lists of token ids have in all, each by itself."""
        known = sum(len(piece) for piece in pieces if not isinstance(piece, str))
        texts = [piece for piece in pieces if isinstance(piece, str)]
        if len(texts) < 2:
            return known + sum(self._tokenized(text, begins=True) for text in texts)
        # All in one question; what a model puts around each text is what it puts around none.
        return known + self._tokenized(texts, begins=False) + len(texts) * self._tokenized("", begins=True)

    def _tokenized(self, content: str | list[str], *, begins: bool) -> int:
        return len(self.ask("/tokenize", {"content": content, "add_special": begins, "parse_special": True})["tokens"])

    def text(self, tokens: tuple[int, ...]) -> str:
        """What token ids stand for."""
        return str(self.ask("/detokenize", {"tokens": tokens})["content"])

    def close(self) -> None:
        """Remove what lies in the file system."""
        self._folder.cleanup()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
