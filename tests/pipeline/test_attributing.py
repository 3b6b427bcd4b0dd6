"""Attribution by policy: which tags and which end user are kept, and what never is."""

from typing import Any, cast

import msgspec
import pytest

from gatehouse.adapters.guards.secrets import SecretScanner
from gatehouse.core.attribution import Attribution, AttributionPolicy
from gatehouse.core.calls import Call
from gatehouse.core.identity import Principal, Role
from gatehouse.pipeline.attributing import DROPPED, Attributor
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.testing.made_secrets import SecretMaker

KEY = bytes(range(32))
PRINCIPAL = Principal("ab12cd34", "test", frozenset({Role.DEVELOPER}), tenant="red")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def exchange(headers: dict[bytes, bytes] | None = None, **call: Any) -> Exchange:
    x = Exchange("req_1", Head("POST", "/v1/chat/completions", headers or {}), None, cast("Any", None))
    x.principal = PRINCIPAL
    x.call = Call(model="m", **call)
    return x


@pytest.fixture
def attributor() -> Attributor:
    """With tags and end users off, as by default."""
    return Attributor(KEY, SecretScanner())


def policy(*tags: str, user: Any = "off") -> AttributionPolicy:
    return AttributionPolicy(frozenset(tags), user)


def test_nothing_is_kept_unless_the_operator_says_so(attributor: Attributor) -> None:
    """Metadata and user of a call leave no trace by default, nor does a header."""
    assert attributor(exchange({b"x-gatehouse-tags": b"project=apollo"}, metadata={"project": "apollo"}, user="ann")) is None


def test_only_listed_names_are_kept(attributor: Attributor) -> None:
    """In the order of their names, whatever order they came in; the header's word counts more than the body's."""
    attributor.configure(policy("team", "project"))
    x = exchange({b"x-gatehouse-tags": b"project=vega,secret=1"}, metadata={"team": "blue", "project": "apollo", "colour": "red"})
    assert attributor(x) == Attribution((("project", "vega"), ("team", "blue")))
    assert x.flags == []


@pytest.mark.parametrize("value", ["", "x" * 65, "two\nlines", "\x1b[31m", "a\u200bb"])
def test_a_value_that_is_not_fit_is_left_out_and_flagged(attributor: Attributor, value: str) -> None:
    """Bounded and printable, so that no report can be forged or flooded by what a caller wrote."""
    attributor.configure(policy("project", "team"))
    x = exchange(metadata={"project": value, "team": "blue"})
    assert attributor(x) == Attribution((("team", "blue"),))
    assert x.flags == [DROPPED]


def test_a_header_that_cannot_be_read_is_flagged(attributor: Attributor) -> None:
    """And the body's tags still count."""
    attributor.configure(policy("project"))
    x = exchange({b"x-gatehouse-tags": b"project"}, metadata={"project": "apollo"})
    assert attributor(x) == Attribution((("project", "apollo"),))
    assert x.flags == [DROPPED]


def test_no_secret_gets_into_the_ledger_as_a_tag_or_a_user(attributor: Attributor) -> None:
    """Whatever the guard's policy for the model is: a value in which a rule finds something is not kept."""
    attributor.configure(policy("project", user="plain"))
    made = [before + secret for name, rule in SecretMaker().all().items() if name != "password-assignment" for before, secret in rule]
    short = [secret for secret in made if len(secret) <= 64 and secret.isprintable() and "=" not in secret]
    assert len(short) > 8
    for secret in short:
        x = exchange({b"x-gatehouse-tags": f"project={secret}".encode()}, user=secret)
        kept = attributor(x)
        assert kept is not None
        assert kept.tags == ()
        assert kept.end_user.startswith("u_")
        assert x.flags == [DROPPED]


def test_an_end_user_is_kept_as_a_keyed_hash_of_his_tenant(attributor: Attributor) -> None:
    """The same user is the same name for one tenant and key, and another for any other; the name itself is nowhere in it."""
    attributor.configure(policy(user="hash"))
    first = attributor(exchange(user="ann@example.com"))
    assert first is not None
    assert first.end_user == attributor.hashed("ann@example.com", "red")
    assert len(first.end_user) == 34
    assert attributor.hashed("ann@example.com", "blue") != first.end_user
    assert Attributor(KEY[::-1], SecretScanner()).hashed("ann@example.com", "red") != first.end_user
    attributor.configure(policy(user="plain"))
    assert attributor(exchange(user="ann@example.com")) == Attribution((), "ann@example.com")
    assert attributor(exchange(extra={"safety_identifier": "ann@example.com"})) == Attribution((), "ann@example.com")
    assert attributor(exchange(extra={"safety_identifier": 7})) is None
    long = attributor(exchange(user="a" * 129))
    assert long is not None
    assert long.end_user == attributor.hashed("a" * 129, "red")


def test_a_trace_id_is_kept_of_a_valid_traceparent_only(attributor: Attributor) -> None:
    """Whatever the policy on tags says: an id is nobody's secret. Baggage and tracestate are not looked at."""
    good = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
    assert attributor(exchange({b"traceparent": good, b"tracestate": b"a=b", b"baggage": b"user=ann"})) == Attribution((), "", TRACE)
    assert attributor(exchange({b"traceparent": good + b"-x"})) is None


def test_a_call_of_nobody_is_booked_under_nothing(attributor: Attributor) -> None:
    """Who has not shown a key writes nothing into the ledger but that he was refused."""
    attributor.configure(policy("project"))
    x = exchange({b"x-gatehouse-tags": b"project=apollo"})
    x.principal = None
    assert attributor(x) is None


def test_attribution_survives_the_journal() -> None:
    """Encoded as one short array."""
    made = Attribution((("project", "apollo"),), "u_1", TRACE)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=Attribution) == made


def test_the_address_is_kept_where_the_operator_says_so(attributor: Attributor) -> None:
    """Of nobody too: who tries bad keys is what a security officer asks; by default it is kept of no one."""
    x = exchange()
    x.head = msgspec.structs.replace(x.head, peer="203.0.113.9")
    assert attributor(x) is None
    attributor.configure(AttributionPolicy(peer="keep"))
    assert attributor(x) == Attribution(peer="203.0.113.9")
    x.principal = None
    assert attributor(x) == Attribution(peer="203.0.113.9")
