"""What targets are told of who asks: the truth table of `Forward`."""

from typing import Any

import pytest

from gatehouse.core.advice import ADVICE
from gatehouse.core.calls import Call, Message
from gatehouse.core.plans import Deadlines, Forward, Plan, Target
from gatehouse.core.traces import parse_traceparent
from gatehouse.pipeline.attempt import Attempt
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.forwarding import Forwarding

KEY = bytes(range(32))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()
EXTRA = {"store": True, "safety_identifier": "ann", "verbosity": "low"}
FULL = Call(model="m", messages=(Message("user", "hi"),), user="ann", metadata={"project": "apollo"}, extra=EXTRA)


def shown(
    policy: Forward,
    call: Call = FULL,
    forwarding: Forwarding | None = None,
    advice: frozenset[str] = ADVICE,
    listed: frozenset[str] = frozenset({"store"}),
    **headers: bytes,
) -> tuple[Call, Attempt]:
    x = Exchange("req_1", Head("POST", "/", {name.encode(): value for name, value in headers.items()}), None, None)  # type: ignore[arg-type]
    x.attempts = 1
    attempt = Attempt("req_1", "red", Deadlines(), None)
    target = Target("lab/a", "lab", "a", forward=policy, advice=advice)
    x.plan = Plan("m", (target,), extra_fields=listed)
    return (forwarding or Forwarding(KEY)).shown(x, call, target, attempt), attempt


def test_by_default_nothing_of_who_asks_goes_out() -> None:
    """The question stays as it is; user, tags, storing and the trace are left out."""
    call, attempt = shown(Forward(), traceparent=PARENT, tracestate=b"a=b", baggage=b"user=ann")
    assert call == Call(model="m", messages=FULL.messages, extra={"verbosity": "low"})
    assert attempt.traceparent == ""


def test_a_call_with_nothing_of_that_is_not_touched() -> None:
    """No copy is made."""
    plain = Call(model="m", messages=FULL.messages)
    assert shown(Forward(), plain)[0] is plain


@pytest.mark.parametrize(
    ("policy", "user", "metadata", "extra"),
    [
        ({"user": "plain"}, "ann", {}, {"safety_identifier": "ann", "verbosity": "low"}),
        ({"metadata": True}, None, {"project": "apollo"}, {"verbosity": "low"}),
        ({"store": True}, None, {}, {"store": True, "verbosity": "low"}),
        ({"user": "plain", "metadata": True, "store": True}, "ann", {"project": "apollo"}, EXTRA),
    ],
)
def test_what_the_operator_says_goes_out(policy: dict[str, Any], user: str | None, metadata: dict[str, str], extra: Any) -> None:
    """And nothing else."""
    call, _ = shown(Forward(**policy))
    assert (call.user, call.metadata, call.extra) == (user, metadata, extra)


def test_a_user_as_a_hash() -> None:
    """The same for the same provider and tenant, another for any other: two providers cannot put their users side by side."""
    call, _ = shown(Forward(user="hash"))
    forwarding = Forwarding(KEY)
    assert call.user == call.extra["safety_identifier"] == forwarding.hashed("ann", "lab", "red")
    others = {forwarding.hashed("ann", "lab", "blue"), forwarding.hashed("ann", "other", "red"), forwarding.hashed("bob", "lab", "red")}
    assert len(others | {call.user}) == 4
    assert call.user is not None
    assert "ann" not in call.user


def test_without_a_key_a_hash_is_nothing() -> None:
    """Never the name instead."""
    call, _ = shown(Forward(user="hash"), forwarding=Forwarding())
    assert call.user is None
    assert "safety_identifier" not in call.extra


def test_that_nothing_is_to_be_stored_is_always_told() -> None:
    """To keep it back would be the opposite of privacy; only a target that stores nothing and knows no such field is not told."""
    refusing = Call(model="m", extra={"store": False})
    assert shown(Forward(), refusing)[0].extra == {"store": False}
    assert shown(Forward(), refusing, listed=frozenset())[0].extra == {"store": False}
    assert shown(Forward(), refusing, advice=frozenset())[0].extra == {"store": False}
    assert shown(Forward(), refusing, advice=frozenset(), listed=frozenset())[0].extra == {}


def test_advice_goes_to_targets_that_know_it() -> None:
    """Others would refuse the field. What the model lists goes to all of them, and so does what is more than advice."""
    call = Call(model="m", extra={"verbosity": "low", "service_tier": "auto", "top_k": 4})
    some, listed = frozenset({"verbosity"}), frozenset({"service_tier", "top_k"})
    assert shown(Forward(), call, advice=some)[0].extra == {"verbosity": "low", "top_k": 4}
    assert shown(Forward(), call, advice=frozenset(), listed=listed)[0].extra == {"service_tier": "auto", "top_k": 4}
    flex = Call(model="m", extra={"service_tier": "flex"})
    assert shown(Forward(), flex, advice=frozenset(), listed=listed)[0].extra == flex.extra


@pytest.mark.parametrize(
    ("user", "listed", "told"),
    [("off", False, None), ("off", True, "ann"), ("plain", False, "ann"), ("hash", False, "u_"), ("hash", True, "ann")],
)
def test_a_key_for_the_cache_may_be_a_name(user: Any, listed: bool, told: str | None) -> None:
    """OpenAI has applications put there what they had put in `user`: it is told as that is, unless the model lists the field."""
    call = Call(model="m", extra={"prompt_cache_key": "ann"})
    extra = shown(Forward(user=user), call, listed=frozenset({"prompt_cache_key"} if listed else ()))[0].extra
    if told == "u_":
        told = Forwarding(KEY).hashed("ann", "lab", "red")
    assert extra == ({} if told is None else {"prompt_cache_key": told})


def test_a_trace_goes_on_with_a_span_of_its_own() -> None:
    """Never the caller's span, and nothing for a header that is none."""
    _, attempt = shown(Forward(traceparent=True), traceparent=PARENT)
    child = parse_traceparent(attempt.traceparent.encode())
    assert child is not None
    assert child.trace == TRACE
    assert child.span != "00f067aa0ba902b7"
    assert shown(Forward(traceparent=True), traceparent=b"00-zz")[1].traceparent == ""
    assert shown(Forward(traceparent=True))[1].traceparent == ""


def test_an_odd_identifier_is_left_out() -> None:
    """What is no text is nobody's name."""
    call, _ = shown(Forward(user="plain"), Call(model="m", extra={"safety_identifier": {"name": "ann"}}))
    assert call.extra == {}
