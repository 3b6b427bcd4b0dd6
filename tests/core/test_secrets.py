"""Secrets: nothing but `reveal` gives the value out."""

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from gatehouse.core.secrets import Secret

VALUE = "sk-live-0123456789abcdef"


class Holder(msgspec.Struct, frozen=True):
    key: Secret


@pytest.mark.parametrize("show", [repr, str, format, "{}".format, "{:>40}".format, "{!r}".format, lambda secret: f"{secret}"])
def test_cve_2024_9606_no_part_of_a_secret_is_shown(show: object) -> None:
    """Masking that hides only the first characters leaks the rest; ours shows no character at all, not even a length."""
    assert callable(show)
    text = show(Secret(VALUE))
    assert not any(VALUE[start : start + 4] in text for start in range(len(VALUE) - 4))
    assert text == show(Secret("x"))


def test_containers_logs_and_tracebacks_show_the_mask(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever prints what holds the secret prints the mask."""
    holder = Holder(Secret(VALUE))
    with caplog.at_level(logging.WARNING):
        logging.getLogger("gatehouse.test").warning("holder %s %r", holder, [holder.key])
    try:
        raise ValueError(holder)
    except ValueError as error:
        shown = "".join(traceback.format_exception(error))
    assert VALUE not in repr(holder) + caplog.text + shown


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, pickle.dumps])
def test_no_encoder_takes_a_secret(encode: object) -> None:
    """It cannot be written into a message or a file by accident."""
    assert callable(encode)
    with pytest.raises(TypeError):
        encode(Holder(Secret(VALUE)) if encode is not json.dumps else Secret(VALUE))


def test_values_compare_and_copies_are_the_same() -> None:
    """Equality is by value, so settings can be compared; a copy is the secret itself."""
    secret = Secret(VALUE)
    assert secret == Secret(VALUE)
    assert hash(secret) == hash(Secret(VALUE))
    assert secret != Secret("other")
    assert secret != VALUE
    assert copy.deepcopy(secret) is copy.copy(secret) is secret
    assert (secret.reveal(), bool(secret), bool(Secret(""))) == (VALUE, True, False)
