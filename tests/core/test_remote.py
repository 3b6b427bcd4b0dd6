"""Addresses in calls: one reading or none, and what counts as public."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.core.remote import RemoteUrl, UrlRefused, check_for_target, is_public, parse_url

PRIVATE = (
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.170",
    "192.0.2.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a9fe:a9fe::", "2001::1", "2001:db8::1",
    "3fff::1", "100::1", "5f00::1", "", "localhost", "8.8.8.8.8",
)  # fmt: skip
PUBLIC = ("93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450:4001::200e", "64:ff9b::808:808")


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public(address: str) -> None:
    """This machine, neighbours, metadata services, multicast, documentation, and all of these in IPv6's disguises."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    """Of either family, and an IPv4 address behind a NAT64 of the public prefix."""
    assert is_public(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org", RemoteUrl("https", "example.org", 443, "/")),
        ("HTTPS://Example.ORG/a.png?b=/c#d", RemoteUrl("https", "example.org", 443, "/a.png?b=/c")),
        ("http://example.org:8080?x", RemoteUrl("http", "example.org", 8080, "/?x")),
        ("https://[2606:2800:220:1::1]:444/x", RemoteUrl("https", "2606:2800:220:1::1", 444, "/x")),
        ("https://93.184.216.34/x", RemoteUrl("https", "93.184.216.34", 443, "/x")),
    ],
)
def test_an_address_is_read(text: str, expected: RemoteUrl) -> None:
    """Host in lower case, the default port filled in, the fragment left out."""
    assert parse_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "file:///etc/passwd", "ftp://example.org/x", "gopher://example.org", "//example.org/x", "https:/example.org",
        "https:example.org",
        "https://user@example.org/", "https://user:pw@example.org/", "https://example.org\\@127.0.0.1/", "https://example.org@127.0.0.1",
        "https://127.1/", "https://0x7f.1/", "https://2130706433/", "https://0177.0.0.1/", "https://127.0.0.1.:443/", "https://1.2.3.4.5/",
        "https://example.org:0/", "https://example.org:65536/", "https://example.org:443:443/", "https://exa mple.org/",
        "https://example.org/\r\nx: y", "https://example.org/\x00", "https://ex\u00e4mple.org/", "https://\u2488\u2488/", "https://[::1",
        "https://[fe80::1%25eth0]/", "https://[v1.x]/", "https://example.org/%", "https://example.org/%zz", "https://.org/", "https://a..b/",
        "https://example.org/" + "x" * 2048, "https://127.0.0.1:80\\.example.org/", "https://a_b.example.org/",
    ],
)  # fmt: skip
def test_cve_2026_45400_an_address_that_two_parsers_could_read_differently_is_none(text: str) -> None:
    """Open WebUI checked with one parser and fetched with another. Here there is one, and it takes plain addresses only."""
    with pytest.raises(UrlRefused):
        parse_url(text)


@given(st.text(max_size=60) | st.from_regex(r"https?://[^ ]{0,40}", fullmatch=True))
def test_what_is_read_is_read_the_same_again(text: str) -> None:
    """Whatever a caller writes: refused, or written out again it means the same."""
    try:
        url = parse_url(text)
    except UrlRefused:
        return
    assert parse_url(f"{url.scheme}://{url.authority}{url.target}") == url


@pytest.mark.parametrize("url", ["https://example.org/a.png", "https://93.184.216.34/a.png", "https://cdn.example.co.uk/a.png"])
def test_a_target_is_left_public_addresses(url: str) -> None:
    """As far as can be said without asking what a name means."""
    check_for_target(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png", "https://localhost/a.png", "https://printer/a.png", "https://db.internal/a.png", "https://10.0.0.1/a",
        "https://[::1]/a", "https://169.254.169.254/latest/meta-data", "https://[::ffff:10.0.0.1]/", "https://x.local/", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_cve_2026_24779_a_target_is_never_handed_an_address_of_its_own_network(url: str) -> None:
    """vLLM fetched what a call named, from inside. Here what shows by itself to be no public machine is refused, also under `pass`."""
    with pytest.raises(UrlRefused):
        check_for_target(url)
