"""How commands reach a running server: address and key from options, the environment, or the data directory of this machine."""

import http.client
import ipaddress
import json
import ssl
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from gatehouse.core.secrets import Secret
from gatehouse.settings import Environment

ADMIN_SECONDS: Final = 30.0


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


class Door:
    """One port of a server and the key to show there. Opens a connection for each request."""

    def __init__(self, base_url: str, key: Secret) -> None:
        try:
            base = urlsplit(base_url)
            host, self._port = base.hostname, base.port
        except ValueError:
            raise CommandError(f"{base_url!r} is not a URL like http://127.0.0.1:8080") from None
        if host is None or base.scheme not in {"http", "https"}:
            raise CommandError(f"{base_url!r} is not a URL like http://127.0.0.1:8080")
        if not (key.reveal().isprintable() and key.reveal().isascii()):
            raise CommandError("The key holds characters that no key has; copy it again.")
        self._host = host
        self._tls = base.scheme == "https"
        self._path = base.path.rstrip("/")
        self._key = key
        self.where = f"{base.scheme}://{base.netloc.rpartition('@')[2]}"

    def send(
        self, method: str, path: str, body: bytes | None, seconds: float
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        """Send a request; its connection, which the caller closes, and the answer's head.

        Raises:
            CommandError: nobody answers, or not in HTTP.
        """
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        headers = {"authorization": f"Bearer {self._key.reveal()}", "content-type": "application/json"}
        try:
            connection.request(method, self._path + path, body, headers)
            return connection, connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            words = f"The certificate of {self.where} is not trusted here ({error.verify_message})."
            raise CommandError(f"{words} Name your authority's file in SSL_CERT_FILE.") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CommandError(f"No server answers at {self.where} ({type(error).__name__}). Start one with: gatehouse serve") from None
        except BaseException:
            connection.close()
            raise


class AdminClient:
    """A few calls to the admin API, or to what the data port has beside model calls."""

    def __init__(self, base_url: str, key: Secret, port: str = "admin port") -> None:
        self._door = Door(base_url, key)
        self._port = port

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
        connection, response = self._door.send(method, path, body, ADMIN_SECONDS)
        try:
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(f"The answer of {self._door.where} broke off ({type(error).__name__}).") from None
        finally:
            connection.close()
        if response.status >= 400:
            raise CommandError(refusal(response.status, content))
        try:
            if response.headers.get("x-gatehouse-request-id") is None:
                raise ValueError
            return json.loads(content) if content else None
        except ValueError:
            raise CommandError(f"What answers at {self._door.where} is not the {self._port} of a Gatehouse.") from None


def refusal(status: int, content: bytes) -> str:
    """What an error answer says, for a person."""
    try:
        error = json.loads(content)["error"]
        return f"{error['message']} (HTTP {status}, {error['code'] or error['type']})"
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
    except (OSError, UnicodeDecodeError):
        return None


def find_key(url: str, key: str | None, data_dir: Path, environment: Environment) -> Secret:
    """The key to show at `url`. The one in the data directory is for this machine's servers: it is never sent elsewhere."""
    if key:
        return Secret(key)
    if environment.key is not None:
        return environment.key
    kept = local_key(data_dir)
    if kept is not None and _here(url, find_server(data_dir)):
        return kept
    raise CommandError("No key: give --key, set GATEHOUSE_KEY, or run this where the server's data directory is.")


def _here(url: str, found: ServerFile | None) -> bool:
    """Whether `url` is the server of the data directory, or on this machine."""
    if found is not None and url in {found.url, found.admin_url}:
        return True
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True  # it will be refused for what it is
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def data_url(url: str | None, data_dir: Path, environment: Environment) -> str:
    """Where the data port is, from an option, the environment or the data directory; without the /v1 that SDKs want."""
    found = find_server(data_dir)
    base = url or environment.url or (found.url if found else None)
    if base is None:
        raise CommandError(f"No server runs on {data_dir}. Start one with: gatehouse serve, or name one with --url.")
    return base.rstrip("/").removesuffix("/v1")


def data_client(base: str, key: Secret) -> AdminClient:
    """A client of the data port at `base`."""
    return AdminClient(base, key, "data port")


def admin_client(url: str | None, key: str | None, data_dir: Path | None, environment: Environment) -> AdminClient:
    """A client from options, else the environment, else the data directory."""
    directory = data_dir or environment.data_dir
    found = find_server(directory)
    base = url or environment.admin_url or (found.admin_url if found else None)
    if base is None:
        raise CommandError(f"No server runs on {directory}. Start one with: gatehouse serve, or name one with --url.")
    return AdminClient(base, find_key(base, key, directory, environment))
