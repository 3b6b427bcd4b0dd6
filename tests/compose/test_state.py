"""From `state` in the operator's file to the way to other servers, and which targets servers talk about."""

import sys
from pathlib import Path

import msgspec
import pytest
import trustme

from gatehouse.adapters.state.memory_broadcast import MemoryBroadcast
from gatehouse.adapters.state.valkey import ValkeyBroadcast
from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.compose.offline import check_state
from gatehouse.compose.plans import build_plans
from gatehouse.compose.start import StartError
from gatehouse.compose.state import is_loopback, open_broadcast, places
from gatehouse.core.ports import Broadcast
from gatehouse.core.secrets import Secret
from gatehouse.operator_file import parse
from gatehouse.settings import Settings, StateSettings
from tests.cli.commanding import gatehouse
from tests.valkeys import valkey

FILE = """
providers:
  - {name: lab, kind: openai-compatible, base_url: "https://lab.example.com/v1"}
  - {name: near, kind: openai-compatible, base_url: "http://127.0.0.1:8000/v1"}
models:
  - name: assistant
    targets:
      - {provider: lab, model: m}
      - {provider: near, model: m}
      - {provider: lab, model: carefree, breaker: {enabled: false}}
    fallbacks: [tiny]
  - {name: tiny, targets: [{engine: llamacpp, path: builtin}]}
"""


def opened(**fields: object) -> Broadcast:
    """What a server with these settings has."""
    settings = msgspec.convert({"url": Secret("memory://"), **fields}, StateSettings)
    return open_broadcast(settings, SystemClock(), SystemRng(), TaskSpawner())


def shared(text: str) -> dict[str, bytes]:
    """The targets servers talk about, under this file."""
    settings = parse(text, "f.yaml", {})
    return {name: place.digest for name, place in places(settings, build_plans(settings, lambda kind, url, model: None)).items()}


async def test_the_url_is_taken_apart() -> None:
    """Host, port, escaped user and password, channel; nothing of the password shows."""
    broadcast = opened(url=Secret("valkey://a%40b:p%2Fw%25d@valkey.example.com"), prefix="house", answer_seconds=3.0)
    assert isinstance(broadcast, ValkeyBroadcast)
    where = broadcast._place
    assert (where.host, where.port, where.username, where.channel, where.tls) == ("valkey.example.com", 6379, "a@b", "house:targets", None)
    assert where.password is not None
    assert where.password.reveal() == "p/w%d"
    assert where.answer_seconds == 3.0
    assert "p/w" not in repr(where) + broadcast.problem
    assert isinstance(opened(), MemoryBroadcast)


async def test_tls_is_verified(tmp_path: Path) -> None:
    """valkeys:// and rediss:// check certificate and name, against the authorities that are named; a file that cannot be used is said."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("gate@example.com").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    for scheme in ("valkeys", "rediss"):
        broadcast = opened(url=Secret(f"{scheme}://host"), ca_bundle=str(tmp_path / "ca.pem"), client_cert=str(tmp_path / "client.pem"))
        assert isinstance(broadcast, ValkeyBroadcast)
        context = broadcast._place.tls
        assert context is not None
        assert context.check_hostname
        assert len(context.get_ca_certs()) == 1
    with pytest.raises(StartError, match="ca_bundle"):
        opened(url=Secret("valkeys://host"), ca_bundle=str(tmp_path / "none.pem"))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """valkey:// without the extra is refused with what to install, at start and by `config check`; memory:// needs nothing."""
    monkeypatch.delitem(sys.modules, "gatehouse.adapters.state.valkey", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    settings = Settings(state=StateSettings(url=Secret("valkey://:hidden-word@host")))
    with pytest.raises(StartError, match=r"gatehouse\[valkey\]") as caught:
        check_state(settings)
    assert "hidden-word" not in str(caught.value)
    check_state(Settings())


def test_which_targets_servers_talk_about() -> None:
    """Those of providers that have a breaker; an embedded model is nobody else's."""
    assert shared(FILE).keys() == {"lab/m", "near/m"}


def test_the_same_place_has_the_same_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another address is another place, whatever its name; what is on this machine is elsewhere for another machine."""
    before = shared(FILE)
    assert before["lab/m"] != before["near/m"]
    moved = shared(FILE.replace("lab.example.com", "other.example.com"))
    assert (moved["lab/m"] != before["lab/m"], moved["near/m"]) == (True, before["near/m"])
    monkeypatch.setattr("socket.gethostname", lambda: "another-machine")
    elsewhere = shared(FILE)
    assert (elsewhere["lab/m"], elsewhere["near/m"] != before["near/m"]) == (before["lab/m"], True)
    assert [is_loopback(host) for host in ("127.0.0.9", "::1", "localhost", "10.0.0.1", "example.com")] == [True, True, True, False, False]


async def test_config_check_and_doctor(tmp_path: Path) -> None:
    """`config check` takes the file without connecting; `doctor` connects and says whether what is published comes back. Neither shows
    the password."""
    file = tmp_path / "gatehouse.yaml"
    with valkey(tmp_path, "--requirepass", "hidden-word") as server:
        file.write_text(f'state: {{url: "valkey://:hidden-word@127.0.0.1:{server.port}"}}\n')
        assert (await gatehouse("config", "check", file)).status == 0
        said = await gatehouse("doctor", "--json", "--config", str(file), data_dir=tmp_path / "data")
        parts = {finding["part"]: finding for finding in said.json()["findings"]}
        assert (parts["state"]["state"], parts["state"]["words"]) == ("ok", "127.0.0.1 passes on what servers tell each other")
        file.write_text(f'state: {{url: "valkey://:hidden-wort@127.0.0.1:{server.port}", connect_seconds: 0.3, answer_seconds: 0.3}}\n')
        said = await gatehouse("doctor", "--json", "--config", str(file), data_dir=tmp_path / "data")
        parts = {finding["part"]: finding for finding in said.json()["findings"]}
        assert parts["state"]["state"] == "bad"
        assert "refuses our user, password" in parts["state"]["words"]
        assert "hidden-wor" not in str(said)
