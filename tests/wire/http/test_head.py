"""One head has one reading or none: the truth table of what passes, and what llhttp would have let pass."""

import pytest

from gatehouse.wire.http.head import CHUNKED, HeadReader, Refused, RequestHead
from gatehouse.wire.http.limits import HttpLimits


def read(raw: bytes, limits: HttpLimits | None = None) -> RequestHead:
    return HeadReader(limits or HttpLimits()).read(raw)


def head(*lines: str, line: str = "POST /v1/chat/completions HTTP/1.1", host: bool = True) -> bytes:
    fields = [*(["Host: gate.test"] if host else []), *lines]
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def test_a_plain_head_becomes_values() -> None:
    """Method, path, query, lower-case fields without surrounding blanks, length and version."""
    found = read(head("Content-Length: 12", "X-Thing:  a b \t", line="POST /v1/a%20b?x=1&y=/? HTTP/1.1"))
    assert (found.method, found.path, found.query, found.minor) == ("POST", "/v1/a%20b", "x=1&y=/?", 1)
    assert found.headers == {b"host": b"gate.test", b"content-length": b"12", b"x-thing": b"a b"}
    assert (found.length, found.keep_alive, found.expects, found.credentials) == (12, True, False, ())


def test_reading_twice_with_one_reader_says_the_same() -> None:
    """What a reader remembers never changes what it reads."""
    reader = HeadReader(HttpLimits())
    raw = head("Content-Length: 3", "Authorization: Bearer k")
    assert reader.read(raw) == reader.read(raw)
    with pytest.raises(Refused):
        reader.read(head("Content-Length: 3", "Host: other.test"))
    assert reader.read(raw) == read(raw)


def test_what_a_reader_remembers_is_bounded() -> None:
    """A stranger who sends ever new paths, names and hosts finds the same reader, not a larger one."""
    reader = HeadReader(HttpLimits())
    for number in range(2000):
        reader.read(head(f"X-{number}: a", f"Host: h{number}", line=f"GET /{number} HTTP/1.1", host=False))
    assert max(len(reader._lines), len(reader._names), len(reader._hosts)) <= 512


def test_a_head_does_not_show_its_credentials() -> None:
    """Nobody finds a key in a log because somebody printed a head."""
    assert "secret" not in repr(read(head("Authorization: Bearer secret")))


REFUSED = {
    "bare LF in a line": (b"GET /a HTTP/1.1\r\nHost: x\nY: z\r\n\r\n", 400),
    "bare LF after the request line": (b"GET /a HTTP/1.1\nHost: x\r\n\r\n", 400),
    "bare CR": (b"GET /a HTTP/1.1\r\nHost: x\rY: z\r\n\r\n", 400),
    "folded field": (head("X-A: b\r\n c"), 400),
    "folded with a tab": (head("X-A: b\r\n\tc"), 400),
    "first field folded": (b"GET /a HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "length and chunked": (head("Content-Length: 3", "Transfer-Encoding: chunked"), 400),
    "chunked and length": (head("Transfer-Encoding: chunked", "Content-Length: 3"), 400),
    "two lengths": (head("Content-Length: 3", "Content-Length: 4"), 400),
    "two equal lengths": (head("Content-Length: 3", "Content-Length: 3"), 400),
    "a list of lengths": (head("Content-Length: 3, 3"), 400),
    "a signed length": (head("Content-Length: +3"), 400),
    "a negative length": (head("Content-Length: -3"), 400),
    "a hexadecimal length": (head("Content-Length: 0x3"), 400),
    "an empty length": (head("Content-Length:"), 400),
    "a length beyond reason": (head("Content-Length: 99999999999999999999"), 400),
    "a length of 19 digits": (head("Content-Length: 1000000000000000000"), 400),
    "digits of another script": (head("Content-Length: \xb2"), 400),
    "chunked twice": (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
    "gzip, then chunked": (head("Transfer-Encoding: gzip, chunked"), 501),
    "chunked, then identity": (head("Transfer-Encoding: chunked, identity"), 400),
    "identity": (head("Transfer-Encoding: identity"), 400),
    "almost chunked": (head("Transfer-Encoding: xchunked"), 400),
    "chunked in HTTP/1.0": (head("Transfer-Encoding: chunked", line="POST /a HTTP/1.0"), 400),
    "blank before the colon": (head("Content-Length : 3"), 400),
    "no colon": (head("Content-Length"), 400),
    "empty name": (head(": x"), 400),
    "name outside ASCII": (head("\xe4: x"), 400),
    "NUL in a value": (head("X: a\0b"), 400),
    "escape sequence in a value": (head("X: \x1b[31m"), 400),
    "DEL in a value": (head("X: \x7f"), 400),
    "absolute target": (head(line="GET http://gate.test/v1/models HTTP/1.1"), 400),
    "target with an authority": (head(line="GET //evil/livez HTTP/1.1"), 400),
    "authority as target": (head(line="CONNECT gate.test:443 HTTP/1.1"), 400),
    "no slash": (head(line="GET livez HTTP/1.1"), 400),
    "fragment": (head(line="GET /livez#x HTTP/1.1"), 400),
    "bytes outside ASCII in the target": (head(line="GET /\xe4 HTTP/1.1"), 400),
    "control byte in the target": (head(line="GET /a\x01b HTTP/1.1"), 400),
    "half a percent escape": (head(line="GET /a%2 HTTP/1.1"), 400),
    "backslash": (head(line="GET /a\\b HTTP/1.1"), 400),
    "quote in the query": (head(line='GET /a?"x" HTTP/1.1'), 400),
    "two blanks": (head(line="GET  /a HTTP/1.1"), 400),
    "blank at the end": (head(line="GET /a HTTP/1.1 "), 400),
    "tab for a blank": (head(line="GET\t/a\tHTTP/1.1"), 400),
    "star for a GET": (head(line="GET * HTTP/1.1"), 400),
    "a line end before the method": (b"\n" + head(), 400),
    "a whole one before the method": (b"\r\n" + head(), 400),
    "no method": (head(line=" /a HTTP/1.1"), 400),
    "no version": (head(line="GET /a"), 400),
    "lower-case version": (head(line="GET /a http/1.1"), 400),
    "another protocol": (head(line="GET /a RTSP/1.0"), 400),
    "HTTP/2": (head(line="GET /a HTTP/2.0"), 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 505),
    "HTTP/0.9 with a version": (head(line="GET /a HTTP/0.9"), 505),
    "HTTP/1.2": (head(line="GET /a HTTP/1.2"), 505),
    "unknown method": (head(line="SPEAK /a HTTP/1.1"), 501),
    "lower-case method": (head(line="get /a HTTP/1.1"), 501),
    "no host": (head(host=False), 400),
    "two hosts": (head("Host: other.test"), 400),
    "two equal hosts": (head("Host: gate.test"), 400),
    "empty host": (head("Host:", host=False), 400),
    "host with a path": (head("Host: x/health?x=", host=False), 400),
    "host with a query": (head("Host: x?y", host=False), 400),
    "host with a fragment": (head("Host: x#y", host=False), 400),
    "host with a user": (head("Host: a@b", host=False), 400),
    "host with a blank": (head("Host: a b", host=False), 400),
    "a list of hosts": (head("Host: a, b", host=False), 400),
    "host with a port of letters": (head("Host: a:http", host=False), 400),
    "two types": (head("Content-Type: a/b", "content-type: c/d"), 400),
    "another expectation": (head("Expect: 200-ok"), 417),
    "an expectation in HTTP/1.0": (head("Expect: 100-continue", line="POST /a HTTP/1.0"), 417),
    "too many fields": (head(*(f"X-{n}: a" for n in range(100))), 431),
    "too long a target": (head(line=f"GET /{'a' * 8192} HTTP/1.1"), 414),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_two_readings_is_refused(name: str) -> None:
    """Each of these has made two machines disagree, or is asked of nobody honest; none is repaired."""
    raw, status = REFUSED[name]
    with pytest.raises(Refused) as caught:
        read(raw)
    assert caught.value.status == status
    assert len(caught.value.error.message) < 300


ACCEPTED = {
    "IPv6 host": head("Host: [::1]:8080", host=False),
    "host with a port": head("Host: gate.test:8080", host=False),
    "host with an underscore": head("Host: my_gate", host=False),
    "HTTP/1.0 without a host": head(host=False, line="GET /livez HTTP/1.0"),
    "HTTP/1.0 without any field": b"GET /livez HTTP/1.0\r\n\r\n",
    "a hundred fields": head(*(f"X-{n}: a" for n in range(99))),
    "an offer to upgrade": head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
    "bytes outside ASCII in a value": head("X-Name: Zo\xeb"),
    "star for OPTIONS": head(line="OPTIONS * HTTP/1.1"),
    "an expectation": head("Expect: 100-Continue"),
    "two of a harmless kind": head("Accept: a/b", "Accept: c/d"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_has_one_reading_is_read(name: str) -> None:
    """Strict is not the same as deaf."""
    read(ACCEPTED[name])


def test_repeated_fields_are_joined() -> None:
    """As RFC 9110 has it, for fields that decide nothing."""
    assert read(head("Accept: a/b", "accept:c/d ")).headers[b"accept"] == b"a/b, c/d"


@pytest.mark.parametrize(
    ("lines", "keep"),
    [
        ((), True),
        (("Connection: keep-alive",), True),
        (("Connection: close",), False),
        (("Connection: Close",), False),
        (("Connection: x-thing, close",), False),
        (("Connection: x-thing", "Connection: close"), False),
        (("Connection: closed",), True),
    ],
)
def test_who_wants_to_go_on(lines: tuple[str, ...], keep: bool) -> None:
    """HTTP/1.1 goes on unless somebody says close, in any list and any case."""
    assert read(head(*lines)).keep_alive is keep


def test_http_1_0_never_goes_on() -> None:
    """Its keep-alive is an extension that proxies get wrong."""
    assert not read(head("Connection: keep-alive", line="GET /a HTTP/1.0")).keep_alive


@pytest.mark.parametrize(
    ("lines", "offered"),
    [
        (("Authorization: Bearer abc",), (b"abc",)),
        (("authorization: bearer   abc  ",), (b"abc",)),
        (("X-Api-Key: abc",), (b"abc",)),
        (("Authorization: Bearer abc", "X-Api-Key: abc"), (b"abc",)),
        (("Authorization: Bearer abc", "X-Api-Key: def"), (b"abc", b"def")),
        (("Authorization: Bearer abc", "Authorization: Bearer def"), (b"abc", b"def")),
        (("Authorization: Bearer abc", "Authorization: Bearer abc"), (b"abc",)),
        (("X-Api-Key: abc", "x-api-key: def"), (b"abc", b"def")),
        (("Authorization: Basic abc",), (b"Basic abc",)),
        (("Authorization: Basic abc", "X-Api-Key: def"), (b"Basic abc", b"def")),
        (("Authorization:",), ()),
        (("Authorization: Bearer abc", "X-Api-Key:"), (b"abc",)),
        (("Authorization: Bearer",), (b"Bearer",)),
        (("Authorization: Bearer abc", "Accept: a", "Accept: b"), (b"abc",)),
        ((), ()),
    ],
)
def test_every_credential_offered_is_seen(lines: tuple[str, ...], offered: tuple[bytes, ...]) -> None:
    """Both headers through one function, distinct values in order; one of another scheme counts whole instead of being passed over."""
    assert read(head(*lines)).credentials == offered


def test_the_body_is_chunked_or_has_a_length() -> None:
    """Or there is none."""
    assert read(head("Transfer-Encoding: Chunked")).length == CHUNKED
    assert read(head("Content-Length: 007")).length == 7
    assert read(head()).length == 0
