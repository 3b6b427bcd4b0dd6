"""Cost tags, end users and traces through the whole server: from a call to the reports, and never further than policy says."""

import json
from pathlib import Path

from gatehouse.testing.upstream import FakeUpstream, completion, usage_of
from tests.served.whole import serving

CONFIG = """
tags: {{allow: [project, cost_center]}}
attribution: {{user: hash}}
{storage}
providers:
  - {{name: lab, kind: openai-compatible, base_url: "{url}"}}
models:
  - name: assistant
    targets: [{{provider: lab, model: fake, price: {{input: "1", output: "1"}}}}]
"""
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_usage_by_tags_and_end_users(tmp_path: Path, empty_postgres: str) -> None:
    """On PostgreSQL: what a call says in metadata, header and user is in its rows and in reports; the audit log holds none of it."""
    async with FakeUpstream(completion(usage=usage_of(3, 5))) as upstream:
        config = CONFIG.format(url=upstream.url, storage=f'storage: {{url: "{empty_postgres}"}}')
        async with serving(tmp_path / "data", config) as server:
            body = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "user": "ann@example.com"}
            headers = {"x-gatehouse-tags": "cost_center=7", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            tagged = await server.ask(
                "POST", "/v1/chat/completions", {**body, "metadata": {"project": "apollo", "mood": "blue"}}, headers=headers
            )
            assert tagged.status == 200
            assert (await server.chat()).status == 200
            by_tag = await server.usage("tag:project,tag:cost_center")
            assert [(row["tag:project"], row["tag:cost_center"], row["requests"], row["cost_usd"]) for row in by_tag] == [
                (None, None, 1, "0.000008"),
                ("apollo", "7", 1, "0.000008"),
            ]
            by_user = await server.usage("user")
            assert [row["requests"] for row in by_user] == [1, 1]
            named = by_user[1]["user"]
            assert named.startswith("u_")
            one = await server.admin("GET", f"/admin/v1/requests/{tagged.headers['x-gatehouse-request-id']}")
            assert one["tags"] == {"project": "apollo", "cost_center": "7"}
            assert (one["user"], one["trace_id"]) == (named, TRACE)
            audit = json.dumps(await server.admin("GET", "/admin/v1/audit"))
            assert "apollo" not in audit
            assert named not in audit
            assert "ann@example.com" not in audit
            refused = await server.ask("GET", "/admin/v1/usage?group_by=tag:Bad", admin=True)
            assert refused.status == 400


async def test_usage_by_tags_from_the_command_line(tmp_path: Path) -> None:
    """On SQLite: `usage --group-by tag:project` draws the same rows; a tag that nobody used yet is one row without a value,
    and one that the policy does not keep is a 400 that says which it does."""
    async with (
        FakeUpstream(completion(usage=usage_of(3, 5))) as upstream,
        serving(tmp_path / "data", CONFIG.format(url=upstream.url, storage="")) as server,
    ):
        for project in ("apollo", "apollo", "vega"):
            assert (await server.chat(metadata={"project": project})).status == 200
        status, out, err = await server.gatehouse("usage", "--group-by", "tag:project", "--json")
        assert status == 0, err
        assert [(row["tag:project"], row["requests"]) for row in json.loads(out)["rows"]] == [("apollo", 2), ("vega", 1)]
        request = (await server.chat(metadata={"project": "[bold]apollo"})).headers["x-gatehouse-request-id"]
        await server.usage()
        status, out, err = await server.gatehouse("trace", request)
        assert status == 0, err
        assert "project=[bold]apollo" in out
        status, out, _ = await server.gatehouse("usage", "--group-by", "tag:cost_center")
        assert status == 0
        assert "tag:cost_center" in out
        refused = await server.ask("GET", "/admin/v1/usage?group_by=model,tag:nope", admin=True)
        error = refused.json()["error"]
        assert (refused.status, error["code"], error["param"]) == (400, "unknown_tag", "group_by")
        assert error["message"].startswith("The tag 'nope' is not kept")
        assert error["message"].endswith("cost_center, project.")
        status, _, err = await server.gatehouse("usage", "--group-by", "tag:nope")
        assert status != 0
        assert "tags.allow" in " ".join(err.split())
