"""TLS for the listeners: a certificate that can be exchanged without dropping a connection."""

import ssl
from pathlib import Path


class Tls:
    """A context for the event loop whose certificate follows `reload`.

    Each handshake is moved onto the newest good certificate before it is answered, so an exchange is whole: a new
    certificate never meets an old key, and a broken file leaves the old pair in place.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._current = self._load()
        self.context = self._load()
        """What listeners are given."""
        self.context.sni_callback = self._choose

    def reload(self) -> None:
        """Read both files again, for connections from now on.

        Raises:
            OSError: a file cannot be read, or (ssl.SSLError) is no certificate and key that belong together.
        """
        self._current = self._load()

    def _choose(self, handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._cert, self._key)
        return context


def tls_context(cert: Path, key: Path) -> Tls:
    """TLS 1.2 or newer with the chain in `cert` and its private key in `key` (PEM).

    Raises:
        OSError: as `Tls.reload`.
    """
    return Tls(cert, key)
