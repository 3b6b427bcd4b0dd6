"""TLS on a real socket: what is offered, and certificates exchanged under open connections."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gatehouse.core.events import Event
from gatehouse.core.outcome import Outcome
from gatehouse.pipeline.exchange import Exchange
from gatehouse.wire.http.limits import HttpLimits
from gatehouse.wire.http.tls import Tls, tls_context
from tests.wire.http_gate import Client, Gate, call, gate, parse_responses, post, text
from tests.wire.http_lane import lane


def write_pair(folder: Path, serial: int) -> tuple[Path, Path]:
    """A self-signed certificate for gate.test, told apart by its serial number, in cert.pem and key.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gate.test")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("gate.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return tls_context(*write_pair(tmp_path, 1))


async def connect(it: Gate, *, name: str | None = "gate.test", **versions: ssl.TLSVersion) -> Client:
    """A TLS client that takes any certificate; without a name it sends none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    for setting, version in versions.items():
        setattr(context, setting, version)
    client = Client(*await asyncio.open_connection(*it.address, ssl=context, server_hostname=name or ""))
    it.clients.append(client)
    return client


def serial(client: Client) -> int:
    """Of the certificate the server showed."""
    shown: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


async def test_calls_over_tls(tls: Tls) -> None:
    """Answers, streams and kept connections are the same as without; HTTP/1.1 is what is agreed on."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        for number in range(300):
            yield text("x" * 1000 + str(number))
            await asyncio.sleep(0)

    async with gate(script, tls=tls) as it:
        client = await connect(it)
        agreed = client.writer.get_extra_info("ssl_object")
        assert (agreed.selected_alpn_protocol(), agreed.version()) == ("http/1.1", "TLSv1.3")
        for _ in range(2):
            await client.send(post(call(stream=True)))
            response = await client.response()
            assert response.body.count(b"data: x") == 300
            assert response.body.endswith(b"data: [DONE]\n\n")


async def test_old_versions_are_not_spoken(tls: Tls) -> None:
    """TLS 1.2 is the oldest."""
    async with gate(tls=tls) as it:
        client = await connect(it, maximum_version=ssl.TLSVersion.TLSv1_2)
        assert client.writer.get_extra_info("ssl_object").version() == "TLSv1.2"
        with pytest.warns(DeprecationWarning, match="TLSv1_1"), pytest.raises(ssl.SSLError):
            await connect(it, maximum_version=ssl.TLSVersion.TLSv1_1, minimum_version=ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("name", ["gate.test", None])
async def test_a_new_certificate_is_shown_to_new_connections(tls: Tls, tmp_path: Path, name: str | None) -> None:
    """With a server name in the handshake and without; open connections go on under the old one."""
    async with gate(tls=tls) as it:
        old = await connect(it, name=name)
        write_pair(tmp_path, 2)
        assert serial(await connect(it, name=name)) == 1
        tls.reload()
        new = await connect(it, name=name)
        assert (serial(old), serial(new)) == (1, 2)
        for client in (old, new):
            await client.send(post(call("still here")))
            assert (await client.response()).body == b'{"text":"still here"}'


@pytest.mark.parametrize("broken", ["missing", "garbage", "of another key"])
async def test_a_broken_pair_changes_nothing(tls: Tls, tmp_path: Path, broken: str) -> None:
    """The reload raises, and connections still get the old certificate with the old key."""
    async with gate(tls=tls) as it:
        if broken == "missing":
            (tmp_path / "cert.pem").unlink()
        elif broken == "garbage":
            (tmp_path / "cert.pem").write_text("no certificate")
        else:
            (tmp_path / "other").mkdir()
            write_pair(tmp_path / "other", 3)
            (tmp_path / "other" / "cert.pem").rename(tmp_path / "cert.pem")
        with pytest.raises(OSError):
            tls.reload()
        client = await connect(it)
        assert serial(client) == 1
        await client.send(post(call()))
        assert (await client.response()).status == 200


async def test_who_does_not_speak_tls_is_turned_away(tls: Tls) -> None:
    """Plain HTTP on this port gets no answer and no log entry, and costs no connection."""
    async with gate(tls=tls) as it:
        client = await it.connect()
        await client.send(post(call()))
        assert not (await client.rest()).startswith(b"HTTP")
        assert it.errors.records == []


async def test_a_handshake_that_does_not_come_is_not_waited_for(tls: Tls) -> None:
    """The time of a head is the time of a handshake too."""
    async with gate(tls=tls, limits=HttpLimits(head_seconds=0.05)) as it:
        client = await it.connect()
        assert await client.closed()


async def test_a_client_that_leaves_under_tls_ends_its_call(tls: Tls) -> None:
    """As without TLS, in the event that brings the news."""

    async def script(x: Exchange) -> AsyncGenerator[Event, None]:
        yield text("one")
        await asyncio.Event().wait()

    async with gate(script, tls=tls) as it:
        client = await connect(it)
        await client.send(post(call(stream=True)))
        await client.read_head()
        client.abort()
        await asyncio.wait_for(it.stage.any_ended.wait(), 5)
        assert it.stage.ended == [Outcome.CLIENT]


async def test_whole_answers_of_a_turn_leave_before_their_connection_closes(tls: Tls) -> None:
    """Encrypted too: the answer is whole, then the farewell; other answers of the turn are whole as well."""
    async with lane(tls=tls) as it:
        it.target.holding = True
        closing, staying = await connect(it), await connect(it)
        await closing.send(post(call("x" * 50_000), "Connection: close"))
        await it.target.hold(1)
        await staying.send(post(call("stays")))
        await it.target.hold(2)
        it.target.release()
        (response,) = parse_responses(await closing.rest())
        assert (response.status, len(response.body)) == (200, 50_011)
        assert (await staying.response()).body == b'{"text":"stays"}'
