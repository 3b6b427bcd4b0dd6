"""Remote addresses in a call: refused, or fetched and replaced by what they hold, so that no target fetches what we did not look at.

They are fetched when everything that may refuse a call has let it pass: nobody without key, grant and budget makes us
connect anywhere, and what the guard stops (a secret in the address itself) is never sent out by us.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from gatehouse.core.calls import Call, FilePart, ImagePart, Message, Part
from gatehouse.core.errors import InvalidRequest
from gatehouse.core.ports import Fetcher
from gatehouse.core.remote import RemoteUrls, UrlRefused, check_for_target

_REMOTE: Final = ("http://", "https://")


def remote_url(part: Part) -> str | None:
    """The address a part points to; None for one that holds its content, or is known to the target by an id."""
    if part.__class__ is ImagePart:
        return None if part.url[:5].lower() == "data:" else part.url
    if part.__class__ is FilePart and part.data is not None and part.data[:8].lower().startswith(_REMOTE):
        return part.data
    return None


def remote_urls(call: Call) -> Iterator[tuple[str, str]]:
    """Each remote address of `call` with its place ("messages[0].content[1]")."""
    for index, message in enumerate(call.messages):
        if isinstance(message.content, tuple):
            for number, part in enumerate(message.content):
                url = remote_url(part)
                if url is not None:
                    yield f"messages[{index}].content[{number}]", url


def check_remote_urls(call: Call, policy: RemoteUrls) -> bool:
    """Whether there is something to fetch.

    Raises:
        InvalidRequest: there is a remote address and the policy refuses them; or it leaves them to the target, and this one
            names nothing public.
    """
    for place, url in remote_urls(call):
        if policy == "refuse":
            raise InvalidRequest(
                f"{place}: remote addresses are not taken by this model. Send the content itself, as a data: URL.",
                code="remote_url_refused",
                param=place,
            )
        if policy == "fetch":
            return True
        try:
            check_for_target(url)
        except UrlRefused as refused:
            raise _refused(place, refused) from None
    return False


class RemoteContent:
    """Fetches what calls point to. `most` bounds how many addresses one call may have."""

    def __init__(self, fetcher: Fetcher, most: int) -> None:
        self._fetcher = fetcher
        self._most = most

    async def fetched(self, call: Call) -> Call:
        """`call` with the content of every remote address in its place, as data: URLs. The same address is fetched once.

        Raises:
            InvalidRequest: too many addresses, one that may not be gone to, or one that gave nothing fit; `param` is its place.
            Unavailable: too much is being fetched already.
        """
        places = list(remote_urls(call))
        if len(places) > self._most:
            raise InvalidRequest(
                f"This call has {len(places)} remote addresses; {self._most} are allowed.", code="remote_url_refused", param=places[-1][0]
            )
        contents: dict[tuple[str, str], str] = {}
        messages = list(call.messages)
        for index, message in enumerate(messages):
            if isinstance(message.content, tuple):
                messages[index] = await self._message(message, f"messages[{index}].content", contents)
        return replace(call, messages=tuple(messages))

    async def _message(self, message: Message, place: str, contents: dict[tuple[str, str], str]) -> Message:
        assert isinstance(message.content, tuple)
        parts = list(message.content)
        for number, part in enumerate(parts):
            url = remote_url(part)
            if url is None:
                continue
            kind = "image" if isinstance(part, ImagePart) else "file"
            content = contents.get((kind, url))
            if content is None:
                try:
                    content = await self._fetcher.fetch(url, "image" if kind == "image" else "file")
                except UrlRefused as refused:
                    raise _refused(f"{place}[{number}]", refused) from None
                contents[kind, url] = content
            parts[number] = replace(part, url=content) if isinstance(part, ImagePart) else replace(part, data=content)
        return replace(message, content=tuple(parts))


def _refused(place: str, refused: UrlRefused) -> InvalidRequest:
    return InvalidRequest(f"{place}: this address is not fetched: {refused}.", code="remote_url_refused", param=place)
