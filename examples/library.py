"""Gatehouse inside a program: `python examples/library.py`. No server, no account, no network."""

import asyncio

from gatehouse import Gatehouse
from gatehouse.errors import GatehouseError, InvalidRequest


async def main() -> None:
    """Ask the built-in model, whole and streamed, see an error, and read what it all cost."""
    async with Gatehouse.open(data_dir="gatehouse-data") as gh:
        done = await gh.complete("Who are you?", model="tiny")
        print(done.text)
        print(f"  {done.usage.total} tokens, ${done.cost_usd}, {done.target}, {done.request_id}")

        async for event in gh.chat(model="tiny", messages=[{"role": "user", "content": "Hello!"}], max_tokens=60):
            print(event.text, end="", flush=True)
        print()

        try:
            await gh.complete("Hello!", model="tiny", temperature=99)
        except InvalidRequest as error:
            print(f"  {error.param}: {error.message}")
        except GatehouseError as error:
            print(f"  {error.code}: {error.message}")

        for row in await gh.usage(["model", "outcome"]):
            print(f"  {row.group}: {row.requests} calls, {row.output_tokens} tokens, ${row.cost_usd}")


if __name__ == "__main__":
    asyncio.run(main())
