"""How commands reach a running server: address and key from options, the environment, or the data directory of this machine."""

import http.client
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gatehouse.core.secrets import Secret
from gatehouse.settings import Environment


class CommandError(Exception):
    """A command cannot go on; the text is for the person who typed it."""


class ServerFile(msgspec.Struct, frozen=True):
    """`run/server.json` in the data directory: where the running server listens."""

    url: str
    admin_url: str
    pid: int


def server_file(data_dir: Path) -> Path:
    """Where a server says where it listens."""
    return data_dir / "run" / "server.json"


def find_server(data_dir: Path) -> ServerFile | None:
    """What the server of this data directory says, or None when none runs."""
    try:
        return msgspec.json.decode(server_file(data_dir).read_bytes(), type=ServerFile)
    except (OSError, msgspec.DecodeError):
        return None


class AdminClient:
    """A few calls to the admin API, one connection each."""

    def __init__(self, base_url: str, key: Secret) -> None:
        try:
            self._base = urlsplit(base_url)
            self._host, self._port = self._base.hostname, self._base.port
        except ValueError:
            self._host, self._port = None, None
        if self._host is None or self._base.scheme not in {"http", "https"}:
            raise CommandError(f"{base_url!r} is not a URL like http://127.0.0.1:8081")
        if not (key.reveal().isprintable() and key.reveal().isascii()):
            raise CommandError("The key holds characters that no key has; copy it again.")
        self._key = key

    def get(self, path: str, **query: str | None) -> Any:
        """GET and decode; parameters that are None are left out."""
        given = {name.rstrip("_"): value for name, value in query.items() if value is not None}
        return self._call("GET", path + (f"?{urlencode(given)}" if given else ""), None)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and decode."""
        return self._call("POST", path, json.dumps(body).encode())

    def delete(self, path: str) -> Any:
        """DELETE and decode, None for no content."""
        return self._call("DELETE", path, None)

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        host, port = self._host or "", self._port
        connection: http.client.HTTPConnection
        if self._base.scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=30, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(host, port, timeout=30)
        headers = {"authorization": f"Bearer {self._key.reveal()}", "content-type": "application/json"}
        try:
            connection.request(method, self._base.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            where = f"{self._base.scheme}://{self._base.netloc}"
            raise CommandError(f"No server answers at {where} ({type(error).__name__}). Start one with: gatehouse serve") from None
        finally:
            connection.close()
        if response.status >= 400:
            raise CommandError(_message(response.status, content))
        return json.loads(content) if content else None


def _message(status: int, content: bytes) -> str:
    try:
        error = json.loads(content)["error"]
        return f"{error['message']} (HTTP {status}, {error['code']})"
    except (ValueError, KeyError, TypeError):
        return f"The server answered HTTP {status}."


def segment(text: str) -> str:
    """One path segment, whatever the text. Nothing is no id: the path would name all of them."""
    if not text:
        raise CommandError("The id is empty.")
    return quote(text, safe="")


def local_key(data_dir: Path) -> Secret | None:
    """The administrator's key that a first start left for this machine's operator, or None."""
    try:
        return Secret((data_dir / "admin.key").read_text().strip())
    except OSError:
        return None


def admin_client(url: str | None, key: str | None, data_dir: Path | None, environment: Environment) -> AdminClient:
    """A client from options, else the environment, else the data directory."""
    directory = data_dir or environment.data_dir
    found = find_server(directory)
    base = url or environment.admin_url or (found.admin_url if found else None)
    if base is None:
        raise CommandError(f"No server runs on {directory}. Start one with: gatehouse serve, or name one with --url.")
    secret = Secret(key) if key else environment.key
    if secret is None:
        secret = local_key(directory)
    if secret is None:
        raise CommandError("No key: give --key, set GATEHOUSE_KEY, or run this where the server's data directory is.")
    return AdminClient(base, secret)
