"""Authorise: the role may call models, the key may call this one."""

import pytest

from gatehouse.core.calls import Call
from gatehouse.core.errors import Forbidden
from gatehouse.core.identity import Principal, Role
from gatehouse.pipeline.exchange import Exchange, Head
from gatehouse.pipeline.stages.authorise import Authorise

DEV = frozenset({Role.DEVELOPER})


@pytest.fixture
def exchange() -> Exchange:
    """A call of which nothing is known yet."""
    return Exchange("r", Head("POST", "/v1/chat/completions", {}), None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("roles", "models", "model", "code"),
    [
        (DEV, None, "anything", None),
        (DEV, frozenset({"tiny"}), "tiny", None),
        (DEV, frozenset({"ti*"}), "tiny", None),
        (DEV, frozenset({"tiny"}), "large", "model_not_allowed"),
        (DEV, frozenset({"tiny"}), "", "model_not_allowed"),
        (DEV, frozenset(), "tiny", "model_not_allowed"),
        (frozenset({Role.ADMIN}), None, "tiny", "permission_denied"),
        (frozenset({Role.VIEWER}), None, "tiny", "permission_denied"),
        (frozenset({Role.VIEWER, Role.ADMIN}), frozenset({"tiny"}), "tiny", "permission_denied"),
        (frozenset({Role.ADMIN, Role.DEVELOPER}), None, "tiny", None),
    ],
)
async def test_the_truth_table(
    exchange: Exchange, roles: frozenset[Role], models: frozenset[str] | None, model: str, code: str | None
) -> None:
    """A call passes with both grants, and is forbidden with the first one that lacks."""
    exchange.principal = Principal("k", "k", roles, models=models)
    exchange.call = Call(model=model)
    stage = Authorise()
    if code is None:
        await stage.admit(exchange)
    else:
        with pytest.raises(Forbidden) as refused:
            await stage.admit(exchange)
        assert refused.value.code == code
    stage.settle(exchange)


async def test_the_answer_does_not_tell_whether_the_model_exists(exchange: Exchange) -> None:
    """Authorise has no list of models: the refusal repeats the caller's own word, shortened, and nothing else."""
    exchange.principal = Principal("k", "k", DEV, models=frozenset({"tiny"}))
    exchange.call = Call(model="x" * 5000)
    with pytest.raises(Forbidden) as refused:
        await Authorise().admit(exchange)
    assert len(refused.value.message) < 250
    assert refused.value.param == "model"


async def test_a_call_without_identity_is_forbidden(exchange: Exchange) -> None:
    """Should Identify ever be left out, nothing gets through here."""
    exchange.call = Call(model="tiny")
    with pytest.raises(Forbidden):
        await Authorise().admit(exchange)


async def test_an_alias_is_judged_by_the_model_it_stands_for(exchange: Exchange) -> None:
    """The table says which; a name it does not know is judged as it is."""
    stage = Authorise({"fast": "assistant"}.get)  # type: ignore[arg-type]
    exchange.principal = Principal("k", "k", DEV, models=frozenset({"assistant"}))
    exchange.call = Call(model="fast")
    await stage.admit(exchange)
    exchange.principal = Principal("k", "k", DEV, models=frozenset({"fa*"}))
    with pytest.raises(Forbidden):
        await stage.admit(exchange)
