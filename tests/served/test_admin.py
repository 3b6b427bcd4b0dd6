"""The admin port on a real socket, over a real database: who may do what, and what it says."""

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gatehouse.adapters.system import SystemClock, SystemRng, TaskSpawner
from gatehouse.compose.launch import engine_command
from gatehouse.compose.serve import listening
from gatehouse.compose.steward import StewardParts
from gatehouse.core.secrets import Secret
from gatehouse.processes.engine_hosts import EngineHosts
from gatehouse.processes.steward import Steward
from gatehouse.settings import Environment, Settings

BOOTSTRAP = "a-bootstrap-key-of-some-length"


class Admin:
    """The port, and the key that a first start made."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key

    async def call(self, method: str, path: str, body: Any = None, key: str | None = "", **headers: str) -> tuple[int, Any, dict[str, str]]:
        """One request on a connection of its own; key "" is the administrator's, None is none."""
        if key is not None:
            headers["authorization"] = f"Bearer {key or self.key}"

        def send() -> tuple[int, Any, dict[str, str]]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
                connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
                response = connection.getresponse()
                said = response.read()
                kind = response.headers.get("content-type", "")
                return response.status, json.loads(said) if "json" in kind else said.decode(), dict(response.headers)
            finally:
                connection.close()

        return await asyncio.to_thread(send)


@pytest.fixture
async def admin(tmp_path: Path) -> AsyncIterator[Admin]:
    clock, rng, spawn = SystemClock(), SystemRng(), TaskSpawner()
    environment = Environment(data_dir=tmp_path, bootstrap_key=Secret(BOOTSTRAP))
    with listening("127.0.0.1", 0) as admin_socket:
        steward = Steward(clock, rng, spawn)
        engines = EngineHosts(engine_command(), tmp_path / "engines", clock, spawn)
        parts = await StewardParts.open(Settings(), environment, tmp_path, steward, engines, clock, rng, spawn)
        await parts.serve_admin(admin_socket)
        key = await parts.first_key()
        assert key is not None
        try:
            yield Admin(admin_socket.getsockname()[1], key)
        finally:
            await parts.close()
            await spawn.close()


async def test_the_contract_of_keys(admin: Admin) -> None:
    """POST answers 201 with id and key, GET lists without it, DELETE revokes; all of it is in the audit log."""
    wanted = {
        "name": "app",
        "team": "blue",
        "models": ["tiny"],
        "budget": {"usd": "1.00", "period": "day"},
        "limits": {"requests_per_minute": 60, "concurrency": 4},
    }
    status, made, _ = await admin.call("POST", "/admin/v1/keys", wanted)
    assert status == 201
    assert made["key"].startswith("gh_live_" + made["id"])
    assert (made["budget"], made["limits"]["requests_per_minute"], made["roles"]) == ({"usd": "1", "period": "day"}, 60, ["developer"])
    status, page, _ = await admin.call("GET", "/admin/v1/keys")
    assert status == 200
    assert [row["name"] for row in page["data"]] == ["app", "administrator"]
    assert made["key"] not in json.dumps(page)
    status, gone, _ = await admin.call("DELETE", f"/admin/v1/keys/{made['id']}")
    assert (status, gone["revoked"]) == (200, True)
    _, audit, _ = await admin.call("GET", "/admin/v1/audit")
    assert [(row["action"], row["subject"]) for row in audit["data"]][:2] == [("key.revoke", made["id"]), ("key.create", made["id"])]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "not JSON"),
        ({"name": ""}, "length >= 1"),
        ({}, "missing required field `name`"),
        ({"name": "x", "user_role": "admin"}, "unknown field `user_role`"),
        ({"name": "x", "allowed_routes": ["*"]}, "unknown field `allowed_routes`"),
        ({"name": "x", "budget": {"usd": "-1"}}, "budget.usd"),
        ({"name": "x", "budget": {"usd": "1", "period": "week"}}, "period"),
        ({"name": "x", "limits": {"concurrency": 0}}, "concurrency"),
        ({"name": "x", "expires_at": "yesterday"}, "expires_at"),
        ({"name": "x\n"}, "printable"),
    ],
)
async def test_bad_bodies(admin: Admin, body: Any, words: str) -> None:
    """400 with what is wrong; CVE-2026-47101, CVE-2026-47102: fields that would raise a key's rights do not exist."""
    status, said, headers = await admin.call("POST", "/admin/v1/keys", body)
    assert status == 400
    assert words in said["error"]["message"]
    assert said["error"]["request_id"] == headers["x-gatehouse-request-id"]


async def test_every_role_at_every_endpoint(admin: Admin) -> None:
    """CVE-2026-35029, CVE-2025-59305: each endpoint asks for its permission; the matrix is written out here a second time."""
    keys = {}
    for role in ("admin", "developer", "viewer", "auditor"):
        _, made, _ = await admin.call("POST", "/admin/v1/keys", {"name": role, "roles": [role]})
        keys[role] = made["key"]
    keys["bootstrap"] = BOOTSTRAP
    matrix = {
        ("GET", "/admin/v1/keys"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/keys/nothere1"): {"admin", "viewer", "auditor", "bootstrap"},
        ("POST", "/admin/v1/keys"): {"admin", "bootstrap"},
        ("POST", "/admin/v1/keys/nothere1/rotate"): {"admin", "bootstrap"},
        ("DELETE", "/admin/v1/keys/nothere1"): {"admin", "bootstrap"},
        ("GET", "/admin/v1/usage"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/requests"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/requests/req_none"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/meters"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/models"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/targets"): {"admin", "viewer", "auditor", "bootstrap"},
        ("GET", "/admin/v1/audit"): {"admin", "auditor", "bootstrap"},
        ("GET", "/admin/v1/audit/checkpoint"): {"admin", "auditor", "bootstrap"},
    }
    _, document, _ = await admin.call("GET", "/admin/openapi.json", key=None)
    declared = {
        (method.upper(), path.replace("{id}", "nothere1" if "keys" in path else "req_none"))
        for path, item in document["paths"].items()
        for method in item
    }
    assert declared == set(matrix) | {("GET", path) for path in ("/livez", "/readyz", "/metrics")}
    for (method, path), allowed in matrix.items():
        for role, key in keys.items():
            status, _, _ = await admin.call(method, path, {} if method == "POST" else None, key=key)
            assert (status != 403) == (role in allowed), (method, path, role, status)
            assert status != 401
        status, _, _ = await admin.call(method, path, {} if method == "POST" else None, key=None)
        assert status == 401
    _, audit, _ = await admin.call("GET", "/admin/v1/audit?limit=100")
    refusals = [row for row in audit["data"] if row["action"] == "admin.refused"]
    assert len(refusals) == sum(len(keys) - len(allowed) for allowed in matrix.values())
    assert all(row["detail"]["lacks"] and row["outcome"] == "refused" for row in refusals)


async def test_who_is_nobody(admin: Admin) -> None:
    """A wrong key, a revoked one and none are 401; two different keys are a 400; both headers go through one function."""
    _, made, _ = await admin.call("POST", "/admin/v1/keys", {"name": "x", "roles": ["viewer"]})
    await admin.call("DELETE", f"/admin/v1/keys/{made['id']}")
    for key in ("nonsense", made["key"], admin.key[:-1] + "x"):
        status, said, _ = await admin.call("GET", "/admin/v1/keys", key=key)
        assert (status, said["error"]["type"]) == (401, "unauthenticated")
    status, _, _ = await admin.call("GET", "/admin/v1/keys", key=None, x_api_key=admin.key)
    assert status == 200
    status, _, _ = await admin.call("GET", "/admin/v1/keys", x_api_key=admin.key)
    assert status == 200
    status, said, _ = await admin.call("GET", "/admin/v1/keys", x_api_key=BOOTSTRAP)
    assert (status, said["error"]["code"]) == (400, "two_credentials")


async def test_cve_2026_48710_the_host_header_decides_nothing(admin: Admin) -> None:
    """CVE-2026-48710, CVE-2026-49468, CVE-2026-48746: whatever Host says, the path that is routed is the path that is authorised."""
    for host in ("x/livez?x=", "x/metrics#", "livez", "x/../livez"):
        status, _, _ = await admin.call("GET", "/admin/v1/keys", key=None, host=host)
        assert status in {400, 401}


async def test_paths_methods_and_parameters(admin: Admin) -> None:
    """404 and 405 in the common shape; unknown, repeated or senseless parameters are a 400."""
    assert (await admin.call("GET", "/admin/v1/nothing"))[0] == 404
    assert (await admin.call("DELETE", "/admin/v1/keys"))[0] == 405
    for query in ("nope=1", "limit=1&limit=2", "limit=x", "limit=0", "limit=100000", "cursor=zzz"):
        status, said, _ = await admin.call("GET", f"/admin/v1/keys?{query}")
        assert (status, said["error"]["type"]) == (400, "invalid_request"), query
    for query in ("group_by=nonsense", "group_by=key,key", "from=soon", "from=2026-02-01&to=2026-01-01"):
        assert (await admin.call("GET", f"/admin/v1/usage?{query}"))[0] == 400, query


async def test_usage_of_nothing(admin: Admin) -> None:
    """A report without calls is empty, not an error."""
    assert (await admin.call("GET", "/admin/v1/usage?group_by=key,model&from=2026-01-01&to=2026-01-02T00:00:00Z"))[1] == {"rows": []}


async def test_health_and_metrics_hold_no_secret(admin: Admin) -> None:
    """CVE-2025-11203: what is public says whether we are well, and nothing else."""
    status, said, _ = await admin.call("GET", "/readyz", key=None)
    assert (status, said["status"]) == (503, "unavailable")  # no worker serves in this test
    assert (await admin.call("GET", "/livez", key=None))[0] == 200
    status, text, _ = await admin.call("GET", "/metrics", key=None)
    assert status == 200
    assert "# TYPE gatehouse_requests_total counter" in text
    assert admin.key not in text


async def test_a_body_has_a_bound(admin: Admin) -> None:
    """413 beyond 256 kB."""
    assert (await admin.call("POST", "/admin/v1/keys", b" " * 300_000))[0] == 413


async def test_rotation(admin: Admin) -> None:
    """A new secret at once, the old one for as long as was granted."""
    _, made, _ = await admin.call("POST", "/admin/v1/keys", {"name": "x", "roles": ["viewer"]})
    status, new, _ = await admin.call("POST", f"/admin/v1/keys/{made['id']}/rotate", {"grace_seconds": 60})
    assert (status, new["id"]) == (200, made["id"])
    assert {(await admin.call("GET", "/admin/v1/keys", key=key))[0] for key in (made["key"], new["key"])} == {200}
    await admin.call("POST", f"/admin/v1/keys/{made['id']}/rotate", {})
    assert (await admin.call("GET", "/admin/v1/keys", key=new["key"]))[0] == 401


async def test_a_checkpoint_is_signed(admin: Admin) -> None:
    """The newest signed note over the log as it stands."""
    _, first, _ = await admin.call("GET", "/admin/v1/audit/checkpoint")
    assert first["note"].startswith("gatehouse/audit/")


async def test_models_of_nothing(admin: Admin) -> None:
    """Before a configuration is in force there is nothing to ask for; that is a list, not an error."""
    assert (await admin.call("GET", "/admin/v1/models"))[1] == {"policy": "", "data": []}
