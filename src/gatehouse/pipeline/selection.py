"""Which of several equal targets is asked: the policies of a model. Each is a choice among those that may be asked now.

What a policy looks at is kept in this process (`target_loads`), with what the others tell added. Two are drawn and the better
taken where a whole order would send every caller to the same target at once ("power of two choices").
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from math import ceil, log
from typing import Final

from gatehouse.core.calls import Call, FilePart, ImagePart, TextPart
from gatehouse.core.plans import Plan, Target
from gatehouse.core.ports import Clock, Rng
from gatehouse.pipeline.exchange import Exchange
from gatehouse.pipeline.prompts import CHARACTERS_A_TOKEN
from gatehouse.pipeline.target_loads import TargetLoads

LOAD_FACTOR: Final = 1.25
"""A target takes at most so many times its share of the calls before the next in its key's order is asked."""
NEVER_ZERO: Final = 1e-9


class Selector:
    """Serves every call of a process."""

    def __init__(self, loads: TargetLoads, clock: Clock, rng: Rng) -> None:
        self._loads = loads
        self._monotonic = clock.monotonic
        self._random = rng.random

    def pick(self, x: Exchange, plan: Plan, targets: list[Target], prompt: int) -> int:
        """An index of `targets`, which has two entries at least. `prompt` is about how many tokens went in."""
        match plan.policy:
            case "least_work":
                return self._of_two(targets, self._work)
            case "latency":
                return self._of_two(targets, self._delay)
            case "cost":
                return self._cheapest(x, targets, prompt)
            case "session":
                return _highest(targets, session_key(x, plan))
            case "prefix":
                return (
                    self._bounded(targets, prefix_key(x.call, plan.prefix_tokens * CHARACTERS_A_TOKEN))
                    if x.call is not None
                    else self.draw(targets)
                )
            case _:
                return self.draw(targets)

    def draw(self, targets: list[Target]) -> int:
        """By weight; those without weight come last."""
        point = self._random() * sum([target.weight for target in targets])
        for index, target in enumerate(targets):
            point -= target.weight
            if point < 0:
                return index
        return len(targets) - 1

    def _of_two(self, targets: list[Target], burden: Callable[[Target], float]) -> int:
        first = self.draw(targets)
        others = targets[:first] + targets[first + 1 :]
        second = self.draw(others)
        other = second if second < first else second + 1
        return first if burden(targets[first]) <= burden(targets[other]) else other

    def _work(self, target: Target) -> float:
        return self._loads.of(target.id).all_work / max(target.weight, NEVER_ZERO)

    def _delay(self, target: Target) -> float:
        load = self._loads.of(target.id)
        # Who has calls waiting begins the next one later than the last: the peak-sensitive average times the line.
        return (load.first_event(self._monotonic()) + NEVER_ZERO) * (load.all_running + 1)

    def _cheapest(self, x: Exchange, targets: list[Target], prompt: int) -> int:
        # One guess for all: how long answers of a target were says nothing about how long this one would be elsewhere.
        output = sum([self._loads.of(target.id).output for target in targets]) / len(targets)
        if x.call is not None and x.call.max_tokens is not None:
            output = min(output, x.call.max_tokens)

        def cost(target: Target) -> float:
            return float("inf") if target.price is None else prompt * target.price.input + output * target.price.output

        costs = [cost(target) for target in targets]
        least = min(costs)
        cheapest = [index for index, each in enumerate(costs) if each <= least]
        return cheapest[self.draw([targets[index] for index in cheapest])] if len(cheapest) > 1 else cheapest[0]

    def _bounded(self, targets: list[Target], key: bytes) -> int:
        """Consistent hashing with bounded loads: the key's own target unless that has more than its share, then the key's next."""
        running = [self._loads.of(target.id).all_running for target in targets]
        weights = sum([target.weight for target in targets]) or 1
        everything = sum(running) + 1
        order = sorted(range(len(targets)), key=lambda index: score(targets[index], key), reverse=True)
        for index in order:
            if running[index] < ceil(LOAD_FACTOR * everything * max(targets[index].weight, NEVER_ZERO) / weights):
                return index
        return order[0]


def score(target: Target, key: bytes) -> float:
    """Rendezvous hashing: for each key the targets stand in an order of its own, each first as often as its weight says; one that
    goes takes only its own keys away."""
    digest = blake2b(target.id.encode(), key=key[:64], digest_size=8).digest()
    point = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -max(target.weight, NEVER_ZERO) / log(point)


def session_key(x: Exchange, plan: Plan) -> bytes:
    """What a session is known by: the header that the operator named, the caller's own `user`, or the API key. Tenants never share."""
    tenant, key_id = (x.principal.tenant, x.principal.key_id) if x.principal is not None else ("", "")
    said = x.head.headers.get(plan.session_header.encode()) if plan.session_header else None
    if said is not None:
        words = b"header\0" + said
    elif x.call is not None and x.call.user:
        words = b"user\0" + x.call.user.encode("utf-8", "surrogatepass")
    else:
        words = b"key\0" + key_id.encode()
    return blake2b(words, key=blake2b(tenant.encode()).digest(), digest_size=32).digest()


def prefix_key(call: Call, characters: int) -> bytes:
    """What prompts share that begin alike: a digest of so much of them, roles and media included."""
    digest = blake2b(digest_size=32)
    left = characters
    for text in _pieces(call, characters):
        digest.update(text[:left].encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
        left -= len(text)
        if left <= 0:
            break
    return digest.digest()


def _pieces(call: Call, characters: int) -> Iterator[str]:
    for message in call.messages:
        yield message.role
        if isinstance(message.content, str):
            yield message.content
            continue
        for part in message.content or ():
            if isinstance(part, TextPart):
                yield part.text
            elif isinstance(part, ImagePart):
                yield part.url[:characters]
            elif isinstance(part, FilePart):
                yield part.file_id or (part.data or "")[:characters]
    for text in call.inputs:
        yield text if isinstance(text, str) else ",".join(map(str, text[:characters]))


def _highest(targets: list[Target], key: bytes) -> int:
    return max(range(len(targets)), key=lambda index: score(targets[index], key))
