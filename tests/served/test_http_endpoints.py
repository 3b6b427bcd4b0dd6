"""What the data port serves beside calls: paths with ids, the doors every request goes through, and how an errand ends."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from gatehouse.core.errors import GatehouseError, InvalidRequest, NotFound, Unauthenticated
from gatehouse.core.identity import Permission, Principal, Role
from gatehouse.wire.http.data_plane import Manners
from gatehouse.wire.http.endpoints import Answered, Asked, Endpoint, Endpoints
from gatehouse.wire.http.forwarded import TrustedProxies
from tests.wire.http_gate import PATH, PlainDialect, chunked, gate, post

DEVELOPER = Principal("k1", "dev", frozenset({Role.DEVELOPER}))
VIEWER = Principal("k2", "view", frozenset({Role.VIEWER}))
KEYS = {b"dev": DEVELOPER, b"view": VIEWER}


async def identify(credentials: tuple[bytes, ...]) -> Principal:
    """The caller of a key of this file."""
    found = KEYS.get(credentials[0]) if credentials else None
    if found is None:
        raise Unauthenticated("no", code="invalid_api_key")
    return found


async def say(asked: Asked) -> Answered:
    """The id, the method and the body's size."""
    body = await asked.read() if asked.head.method == "POST" else b""
    return Answered(msgspec.json.encode([asked.head.method, asked.id, len(body), asked.request_id]), headers={"x-said": asked.id})


def endpoint(method: str, path: str, handler: Callable[[Asked], Awaitable[Answered]] = say) -> Endpoint:
    return Endpoint(method=method, path=path, permission=Permission.CALL_MODELS, summary="", handler=handler)  # type: ignore[arg-type]


def table(*rows: Endpoint, told: list[tuple[str, int]] | None = None) -> Endpoints:
    heard = [] if told is None else told
    return Endpoints(rows, identify, lambda principal: 10, lambda path, status: heard.append((path, status)))


def get(path: str, *lines: str, method: str = "GET", key: str = "dev") -> bytes:
    fields = "".join(f"{line}\r\n" for line in (*lines, *([f"Authorization: Bearer {key}"] if key else [])))
    return f"{method} {path} HTTP/1.1\r\nHost: gate.test\r\n{fields}\r\n".encode()


async def test_paths_with_ids() -> None:
    """An id is one segment and arrives decoded; only a path that says so takes slashes; the path that says more wins."""
    told: list[tuple[str, int]] = []
    rows = table(
        endpoint("GET", "/v1/models"),
        endpoint("GET", "/v1/models/{id:path}"),
        endpoint("GET", "/v1/things/{id}"),
        endpoint("DELETE", "/v1/things/{id}"),
        endpoint("POST", "/v1/things/{id}/cancel"),
        told=told,
    )
    async with gate(endpoints=rows) as server:
        client = await server.connect()
        for path, wanted in (
            ("/v1/models", ["GET", ""]),
            ("/v1/models/lab/tiny", ["GET", "lab/tiny"]),
            ("/v1/models/lab%2Ftiny", ["GET", "lab/tiny"]),
            ("/v1/things/a%20b", ["GET", "a b"]),
        ):
            await client.send(get(path))
            response = await client.response()
            assert (response.status, msgspec.json.decode(response.body)[:2]) == (200, wanted)
            assert response.headers["x-gatehouse-request-id"] == msgspec.json.decode(response.body)[3]
            assert response.headers["x-said"] == wanted[1]
        await client.send(get("/v1/things/x", method="DELETE"))
        assert msgspec.json.decode((await client.response()).body)[:2] == ["DELETE", "x"]
        await client.send(post(b"12345", "Authorization: Bearer dev", path="/v1/things/x/cancel"))
        assert msgspec.json.decode((await client.response()).body)[:3] == ["POST", "x", 5]
        for path in ("/v1/things/", "/v1/things/a/b", "/v1/things/%ff", "/v1/models/"):
            await client.send(get(path))
            assert (await client.response()).status == 404, path
        await client.send(get("/v1/models", method="HEAD"))
        head = await client.response("HEAD")
        assert head.status == 200
        assert int(head.headers["content-length"]) > 0
    assert ("/v1/things/{id}/cancel", 200) in told
    assert ("/v1/models/{id:path}", 200) in told


async def test_a_method_that_a_path_does_not_take() -> None:
    """405 with what it does take; nobody's handler runs."""
    rows = table(endpoint("GET", "/v1/things/{id}"), endpoint("DELETE", "/v1/things/{id}"))
    async with gate(endpoints=rows) as server:
        client = await server.connect()
        await client.send(post(b"{}", "Authorization: Bearer dev", path="/v1/things/x"))
        response = await client.response()
        assert (response.status, response.headers["allow"], response.error()) == (405, "GET, DELETE, HEAD", "method_not_allowed")


async def test_an_unknown_path_says_what_there_is() -> None:
    """A 404 names every path of the port, calls and others alike."""
    async with gate(endpoints=table(endpoint("GET", "/v1/things/{id}"))) as server:
        client = await server.connect()
        await client.send(post(b"{}", path="/v1/files"))
        response = await client.response()
        assert response.status == 404
        assert f"POST {PATH}, GET /v1/things/{{id}}" in msgspec.json.decode(response.body)["error"]["message"]


async def test_the_doors() -> None:
    """No key, a wrong key, a role without the permission: told before the handler runs, and before a body is asked for."""
    ran = []

    async def handler(asked: Asked) -> Answered:
        ran.append(asked.id)
        return Answered(b"{}")

    async with gate(endpoints=table(endpoint("POST", "/v1/things/{id}", handler))) as server:
        for key, status, code in (("", 401, "invalid_api_key"), ("no", 401, "invalid_api_key"), ("view", 403, "permission_denied")):
            client = await server.connect()
            lines = [f"Authorization: Bearer {key}"] if key else []
            await client.send(post(b"", "Expect: 100-continue", *lines, path="/v1/things/x", length=5))
            response = await client.response()
            assert (response.status, response.error()) == (status, code)
            assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
        assert ran == []


async def test_a_body_is_read_under_its_callers_bound() -> None:
    """One byte too many is a 413 and the end of the connection, whether it was announced or came in chunks."""
    async with gate(endpoints=table(endpoint("POST", PATH + "/count"))) as server:
        for request in (
            post(b"x" * 11, "Authorization: Bearer dev", path=PATH + "/count"),
            chunked(b"x" * 6, b"x" * 5, lines="Authorization: Bearer dev\r\n").replace(PATH.encode(), PATH.encode() + b"/count"),
        ):
            client = await server.connect()
            await client.send(request)
            response = await client.response()
            assert (response.status, response.error()) == (413, "too_large")
            assert await client.closed()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (NotFound("gone", code="no_such_thing"), 404, "no_such_thing"),
        (InvalidRequest("bad"), 400, "invalid_request"),
        (KeyError("x"), 500, "internal"),
    ],
)
async def test_a_handler_that_fails(fault: Exception, status: int, code: str) -> None:
    """An error of the tree is told as it is, any other as a fault of ours that says nothing; the connection goes on."""

    async def handler(asked: Asked) -> Answered:
        raise fault

    async with gate(endpoints=table(endpoint("GET", "/v1/things/{id}", handler)), faults=not isinstance(fault, GatehouseError)) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(get("/v1/things/x"))
            response = await client.response()
            assert (response.status, response.error()) == (status, code)


async def test_the_format_of_errors_follows_the_path_or_a_header() -> None:
    """An endpoint's own dialect words its errors; where there is none, and for unknown paths, the header that names one."""

    class Other(PlainDialect):
        def encode_error(self, error: GatehouseError, request_id: str) -> tuple[int, bytes]:
            return 400, b'{"other":true}'

    other = Other()
    own = msgspec.structs.replace(endpoint("GET", "/v1/own"), dialect=other)
    async with gate(endpoints=table(own, endpoint("GET", "/v1/shared")), speakers={b"x-other": other}) as server:
        client = await server.connect()
        for path, lines, wanted in (
            ("/v1/own", (), True),
            ("/v1/shared", (), False),
            ("/v1/shared", ("X-Other: 1",), True),
            ("/v1/nothing", ("X-Other: 1",), True),
            ("/v1/nothing", (), False),
        ):
            await client.send(get(path, *lines, key="no"))
            assert ((await client.response()).body == b'{"other":true}') is wanted, path


async def test_query_parameters() -> None:
    """Known ones, each once; another one, or one twice, is the caller's fault and is named."""

    async def handler(asked: Asked) -> Answered:
        return Answered(msgspec.json.encode(asked.query("limit", "after")))

    async with gate(endpoints=table(endpoint("GET", "/v1/things", handler))) as server:
        client = await server.connect()
        await client.send(get("/v1/things?limit=5&after=a%2Fb"))
        assert msgspec.json.decode((await client.response()).body) == {"limit": "5", "after": "a/b"}
        for query in ("limit=5&limit=6", "page=1"):
            await client.send(get(f"/v1/things?{query}"))
            response = await client.response()
            assert (response.status, response.error()) == (400, "invalid_query")


async def test_a_client_that_leaves_ends_its_errand() -> None:
    """The handler is cancelled and nothing is left running."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(asked: Asked) -> Answered:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return Answered(b"{}")

    async with gate(endpoints=table(endpoint("GET", "/v1/things", handler))) as server:
        client = await server.connect()
        await client.send(get("/v1/things"))
        await asyncio.wait_for(begun.wait(), 5)
        client.abort()
        await asyncio.wait_for(ended.wait(), 5)


async def test_draining_waits_for_errands_and_takes_no_more() -> None:
    """A running one answers; one that comes meanwhile is told to go elsewhere."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def handler(asked: Asked) -> Answered:
        begun.set()
        await go.wait()
        return Answered(b'{"well":true}')

    async with gate(endpoints=table(endpoint("GET", "/v1/things", handler))) as server:
        client, late = await server.connect(), await server.connect()
        await late.send(get("/livez"))
        await late.response()
        await client.send(get("/v1/things"))
        await asyncio.wait_for(begun.wait(), 5)
        draining = asyncio.ensure_future(server.server.drain(60))
        while not server.plane.draining:
            await asyncio.sleep(0)
        await late.send(get("/v1/things"))
        response = await late.response()
        assert (response.status, response.error()) == (503, "shutting_down")
        go.set()
        assert (await client.response()).body == b'{"well":true}'
        assert await draining


async def test_a_drain_that_cannot_wait_tells_who_still_listens() -> None:
    """When the grace is over the handler is cancelled and its client gets a 503, not a broken connection."""
    begun = asyncio.Event()

    async def handler(asked: Asked) -> Answered:
        begun.set()
        await asyncio.Event().wait()
        return Answered(b"{}")

    async with gate(endpoints=table(endpoint("GET", "/v1/things", handler))) as server:
        client = await server.connect()
        await client.send(get("/v1/things"))
        await asyncio.wait_for(begun.wait(), 5)
        draining = asyncio.ensure_future(server.server.drain(1))
        while not server.plane.draining:
            await asyncio.sleep(0)
        await server.pass_time(2)
        response = await client.response()
        assert (response.status, response.error()) == (503, "shutting_down")
        assert not await draining


async def test_everything_stands_below_the_base_path() -> None:
    """Calls and endpoints answer under it and nowhere else; health with it and without; the 404 names paths as they are."""
    rows = Endpoints((endpoint("GET", "/v1/things/{id}"),), identify, lambda principal: 10, base="/llm")
    async with gate(endpoints=rows, manners=Manners(base="/llm")) as server:
        client = await server.connect()
        for path, status in (
            ("/llm/livez", 200),
            ("/readyz", 200),
            ("/llm/v1/things/x", 200),
            ("/v1/things/x", 404),
            ("/llmv1/things/x", 404),
        ):
            await client.send(get(path))
            assert (await client.response()).status == status, path
        await client.send(post({"model": "m", "say": "hello"}, path="/llm" + PATH))
        assert (await client.response()).status == 200
        await client.send(post({"model": "m"}))
        response = await client.response()
        assert response.status == 404
        assert f"POST /llm{PATH}, GET /llm/v1/things/{{id}}" in msgspec.json.decode(response.body)["error"]["message"]


async def test_the_peer_is_who_a_trusted_proxy_names() -> None:
    """What a call's head says of where it came from is the proxy's word, and the connection's where nobody is trusted."""
    for proxies, peer in (
        (TrustedProxies(["127.0.0.0/8"]), "203.0.113.9"),
        (TrustedProxies(["10.0.0.0/8"]), "127.0.0.1"),
        (None, "127.0.0.1"),
    ):
        async with gate(manners=Manners(proxies=proxies)) as server:
            client = await server.connect()
            await client.send(post({"model": "m", "say": "x"}, "X-Forwarded-For: 6.6.6.6, 203.0.113.9"))
            assert (await client.response()).status == 200
            assert server.identify.seen[-1].head.peer == peer


async def test_who_asks_is_read_anew_from_each_head() -> None:
    """On one connection: another key, another peer, another path and the first ones again; what came before sticks to nothing."""
    async with gate(manners=Manners(proxies=TrustedProxies(["127.0.0.0/8"]))) as server:
        client = await server.connect()
        heads = [("k1", "203.0.113.9"), ("k1", "203.0.113.9"), ("k2", "203.0.113.9"), ("k2", "198.51.100.7"), ("k1", "203.0.113.9")]
        for key, peer in heads:
            for say in ("x", "longer than that"):
                await client.send(post({"model": "m", "say": say}, f"Authorization: Bearer {key}", f"X-Forwarded-For: {peer}"))
                assert (await client.response()).status == 200
                head = server.identify.seen[-1].head
                assert (head.credentials, head.peer) == ((key.encode(),), peer)


async def test_a_long_head_is_not_kept_while_nobody_asks() -> None:
    """What was made of a short one waits for the next; thousands of idle connections are not to hold what each was told."""
    async with gate() as server:
        client = await server.connect()
        for line, kept in (("X-Note: short", True), (f"X-Note: {'long ' * 1000}", False), ("X-Note: short", True)):
            await client.send(post({"model": "m", "say": "x"}, line))
            assert (await client.response()).status == 200
            (connection,) = server.server._shared.connections
            assert (connection.met is not None) == kept


async def test_an_errand_whose_client_leaves_before_it_ran() -> None:
    """Its request came and the connection went in one turn of the loop: it is told as over, and nothing is left running."""
    told: list[tuple[str, int]] = []
    async with gate(endpoints=table(endpoint("GET", "/v1/models"), told=told)) as server:
        left = server.leave_at_once()
        client = await server.connect()
        await client.send(get("/v1/models"))
        await asyncio.wait_for(left.wait(), 5)
        await asyncio.sleep(0.01)
        assert not server.plane.running
        assert told == [("/v1/models", 0)]
