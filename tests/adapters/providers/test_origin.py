"""Base URLs, fixed headers and credentials: where a request may go, and what goes with it."""

import pytest

from gatehouse.adapters.providers._http import Credentials, Origin, bypasses, parse_base_url, parse_proxy
from gatehouse.adapters.providers._http.origin import check_header, is_loopback
from gatehouse.core.secrets import Secret


@pytest.mark.parametrize(
    ("text", "origin", "path", "authority"),
    [
        ("https://api.example.com/v1", Origin("https", "api.example.com", 443), "/v1", "api.example.com"),
        ("https://API.Example.com:8443/a/b/", Origin("https", "api.example.com", 8443), "/a/b", "api.example.com:8443"),
        ("http://127.0.0.1:8000/v1", Origin("http", "127.0.0.1", 8000), "/v1", "127.0.0.1:8000"),
        ("http://localhost", Origin("http", "localhost", 80), "", "localhost"),
        ("http://[::1]:9/v1", Origin("http", "::1", 9), "/v1", "[::1]:9"),
        ("https://vllm_7.models.svc.cluster.local./v1", Origin("https", "vllm_7.models.svc.cluster.local.", 443), "/v1", None),
    ],
)
def test_a_base_url_is_an_origin_and_a_path(text: str, origin: Origin, path: str, authority: str | None) -> None:
    """Host in lower case, default ports filled in, no slash at the end."""
    base = parse_base_url(text)
    assert (base.origin, base.path) == (origin, path)
    assert base.origin.authority == (authority or base.origin.authority)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "api.example.com/v1",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://user:password@api.example.com/v1",
        "https://api.example.com@evil.example/v1",
        "https://api.example.com#@evil.example/",
        "https://api.example.com?x=1",
        "https://api.example.com/v1#part",
        "https://api.example.com\\@evil.example/",
        "https://api.example.com/v1\r\nx-evil: 1",
        "https://api.example.com/ v1",
        "https://api.example.com\t/v1",
        "https://api.example.com:0/v1",
        "https://api.example.com:99999/v1",
        "https://api.example.com:x/v1",
        "https://-bad-.example/v1",
        "https://a..b/v1",
        "https://bücher.example/v1",
        "https://1.2.3.4.5/v1",
        "https://0x7f.1/v1",
        "https://api.example.2130706433/v1",
        "https://127.1/v1",
        "https://api.example.com/a/../b",
        "https://[::1/v1",
        "https://[fe80::zz]/v1",
        "https://" + "a" * 64 + ".example/v1",
    ],
)
def test_cve_2026_45400_a_url_two_readers_could_read_differently_is_refused(text: str) -> None:
    """One parser, and nothing that another could understand otherwise: no user, no backslash, no dots in the path. Nothing is quoted."""
    with pytest.raises(ValueError) as caught:
        parse_base_url(text)
    assert "password" not in str(caught.value)
    assert "evil" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["http://api.example.com/v1", "http://10.0.0.5:8000/v1", "http://localhost.evil.example", "http://[::ffff:10.0.0.1]/"]
)
def test_plain_http_leaves_this_machine_only_by_name(text: str) -> None:
    """Without `plaintext` http is for loopback; with it, the operator has said so."""
    with pytest.raises(ValueError, match="plaintext"):
        parse_base_url(text)
    assert parse_base_url(text, plaintext=True).origin.scheme == "http"


def test_loopback_is_recognised_in_every_spelling() -> None:
    """127/8, ::1, and the former mapped into IPv6; nothing else."""
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::1%lo"]))
    assert not any(map(is_loopback, ["10.0.0.1", "0.0.0.0", "::", "169.254.169.254", "::ffff:10.0.0.1", "localhost", ""]))


def test_cve_2024_6587_credentials_go_to_their_origin_only() -> None:
    """Whoever changes host, port or scheme of a provider loses its key; nothing shows it."""
    origin = Origin("https", "api.example.com", 443)
    credentials = Credentials(origin, Secret("sk-123456"))
    assert credentials.header_for(Origin("https", "api.example.com", 443)) == (b"authorization", b"Bearer sk-123456")
    for other in (Origin("https", "evil.example", 443), Origin("https", "api.example.com", 8443), Origin("http", "api.example.com", 443)):
        with pytest.raises(PermissionError) as caught:
            credentials.header_for(other)
        assert "sk-" not in str(caught.value)
    assert "sk-" not in repr(credentials)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-evil", "sesame\r\nhost: b"),
        ("x-evil", "sesame\nb"),
        ("x-evil", "sesäme"),
        ("x-evil", ""),
        ("x evil", "sesame"),
        ("x:evil", "sesame"),
        ("", "sesame"),
        ("Host", "evil.example"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("accept-encoding", "gzip"),
    ],
)
def test_fixed_headers_cannot_change_the_framing(name: str, value: str) -> None:
    """No line breaks, no header that frames or routes the message; the value is never quoted."""
    with pytest.raises(ValueError) as caught:
        check_header(name, value)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "direct"),
    [
        ("localhost", True),
        ("corp.example", True),
        ("llm.corp.example", True),
        ("llm.corp.example.", True),
        ("notcorp.example", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("192.0.2.7", True),
        ("api.example.com", False),
    ],
)
def test_no_proxy(host: str, direct: bool) -> None:
    """Names match themselves and what is below them, addresses themselves and their networks."""
    assert bypasses(["", "localhost", " .CORP.example ", "10.0.0.0/8", "fd00::/8", "192.0.2.7", "not/a/net"], host) is direct


def test_no_proxy_star() -> None:
    """A star is everything."""
    assert bypasses(["*"], "api.example.com")


def test_a_proxy_url() -> None:
    """Host, port and credentials; the latter are masked."""
    proxy = parse_proxy(Secret("http://user:p%40ss@proxy.example:3128"))
    assert (proxy.host, proxy.port) == ("proxy.example", 3128)
    assert proxy.authorization is not None
    assert proxy.authorization.reveal() == "Basic dXNlcjpwQHNz"
    assert "dXNl" not in repr(proxy)
    assert parse_proxy(Secret("proxy.example:8080")).port == 8080
    assert parse_proxy(Secret("http://proxy.example")).port == 80


@pytest.mark.parametrize(
    "text", ["https://u:geheim@proxy.example", "socks5://proxy", "http://", "http://p/path", "http://p:x", "http://p?geheim"]
)
def test_an_impossible_proxy_is_refused_without_quoting_it(text: str) -> None:
    """A proxy URL may hold a password, so no message shows it."""
    with pytest.raises(ValueError) as caught:
        parse_proxy(Secret(text))
    assert "geheim" not in str(caught.value)
