"""Every text of a call that a rule must read, where it stands, and how to put another in its place.

`plain` is what each call pays for: the texts and the kinds of content that no rule can read. `located` names each of them,
in the same order, and `rewritten` changes them by those names; both run only when something was found. A test feeds every
field of a Call and of its parts a marker and looks for it here, so a new field cannot be forgotten.

Values that are JSON for the caller (schemas, metadata, extra fields) are read as their JSON text; strings inside a tool call's
arguments are read with their escapes, as the model wrote them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from gatehouse.core.advice import advises
from gatehouse.core.calls import AudioPart, Call, FilePart, ImagePart, Message, Part, RefusalPart, ResponseFormat, TextPart, ThinkingPart

Located = tuple[str, str]
"""Where ("messages[2].content") and what."""
_NOTHING_UNREAD: frozenset[str] = frozenset()


def plain(call: Call) -> tuple[list[str], frozenset[str], bool]:
    """The texts of `call`, in the order of `located`, the kinds of its content that cannot be read (image, audio, file, extra), and
    whether `seams` has anything to look at."""
    texts: list[str] = []
    add = texts.append
    unread = pieced = False
    for message in call.messages:
        content = message.content
        if content.__class__ is str:
            add(content)
        elif content:
            pieced = True
            for part in content:
                if part.__class__ is TextPart:
                    add(part.text)
                else:
                    unread = True
                    texts.extend(text for _, text in _part_texts(part))  # type: ignore[arg-type]
        if message.tool_calls or message.name or message.tool_call_id or message.refusal:
            pieced = True
            texts.extend(text for _, text in _message_rest(message))
    if call.tools:
        texts.extend(text for _, text in _tools(call))
    if call.tool_choice is not None or call.response_format is not None or call.stop or call.user or call.metadata or call.extra:
        texts.extend(text for _, text in _rest(call))
    if call.inputs:
        texts.extend(text for _, text in _inputs(call))
    if unread or call.extra or call.inputs:
        return texts, frozenset(kind for kind, _ in unscannable(call)), pieced
    return texts, _NOTHING_UNREAD, pieced


def seams(call: Call) -> list[Located]:
    """What only shows when put together or read as its reader will: the text parts of a message joined, as most models get
    them, and the strings of tool arguments that were written with escapes."""
    found: list[Located] = []
    for index, message in enumerate(call.messages):
        content = message.content
        if content.__class__ is tuple:
            parts = [part.text for part in content if part.__class__ is TextPart]
            if len(parts) > 1:
                found.append((f"messages[{index}].content", "".join(parts)))
        for number, tool in enumerate(message.tool_calls):
            if "\\" in tool.arguments:
                found.append((f"messages[{index}].tool_calls[{number}].arguments", _unescaped(tool.arguments)))
    return found


def _unescaped(arguments: str) -> str:
    """Every string in a JSON text, one a line; nothing for what is no JSON, which its reader cannot decode either."""
    strings: list[str] = []
    try:
        waiting = [msgspec.json.decode(arguments)]
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return ""
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
    return "\n".join(strings)


def located(call: Call) -> Iterator[Located]:
    """Every text with its place."""
    for index, message in enumerate(call.messages):
        place = f"messages[{index}]"
        if isinstance(message.content, str):
            yield f"{place}.content", message.content
        else:
            for number, part in enumerate(message.content or ()):
                for field, text in _part_texts(part):
                    yield f"{place}.content[{number}].{field}", text
        for field, text in _message_rest(message):
            yield f"{place}.{field}", text
    yield from _tools(call)
    yield from _rest(call)
    yield from _inputs(call)


def unscannable(call: Call) -> Iterator[tuple[str, str]]:
    """Each content no rule can read: its kind as a guard policy names it, and its place."""
    for index, message in enumerate(call.messages):
        if isinstance(message.content, tuple):
            for number, part in enumerate(message.content):
                kind = _KINDS.get(type(part))
                if kind is not None:
                    yield kind, f"messages[{index}].content[{number}]"
    for index, text in enumerate(call.inputs):
        if not isinstance(text, str):
            yield "tokens", f"{_input_field(call)}[{index}]"
    if call.extra and (unknown := [name for name, value in call.extra.items() if not advises(name, value)]):
        yield "extra", ", ".join(sorted(unknown))


def rewritten(call: Call, changes: Mapping[str, str]) -> Call:
    """`call` with the texts at the places that are keys of `changes` replaced.

    Raises:
        msgspec.DecodeError: a changed JSON text is JSON no longer.
    """
    new = dict(changes)

    def pick(place: str, old: Any) -> Any:
        return new.get(place, old)

    def pick_json(place: str, old: Any) -> Any:
        return msgspec.json.decode(new[place]) if place in new else old

    messages = tuple(_rewritten_message(message, f"messages[{index}]", new) for index, message in enumerate(call.messages))
    tools = tuple(
        replace(
            tool,
            name=pick(f"tools[{index}].name", tool.name),
            description=pick(f"tools[{index}].description", tool.description),
            parameters=pick_json(f"tools[{index}].parameters", tool.parameters),
        )
        for index, tool in enumerate(call.tools)
    )
    choice, form = call.tool_choice, call.response_format
    return replace(
        call,
        messages=messages,
        inputs=tuple(
            text if isinstance(text, tuple) else pick(f"{_input_field(call)}[{index}]", text) for index, text in enumerate(call.inputs)
        ),
        suffix=pick("suffix", call.suffix),
        tools=tools,
        tool_choice=choice and replace(choice, name=pick("tool_choice.name", choice.name)),
        response_format=form
        and ResponseFormat(
            kind=form.kind,
            name=pick("response_format.name", form.name),
            description=pick("response_format.description", form.description),
            schema=pick_json("response_format.schema", form.schema),
            strict=form.strict,
        ),
        stop=tuple(pick(f"stop[{index}]", text) for index, text in enumerate(call.stop)),
        user=pick("user", call.user),
        metadata=pick_json("metadata", call.metadata),
        extra=pick_json("extra", call.extra),
    )


def _rewritten_message(message: Message, place: str, new: Mapping[str, str]) -> Message:
    content = message.content
    if isinstance(content, tuple):
        content = tuple(_rewritten_part(part, f"{place}.content[{number}]", new) for number, part in enumerate(content))
    elif content is not None:
        content = new.get(f"{place}.content", content)
    return replace(
        message,
        content=content,
        name=_changed(new, f"{place}.name", message.name),
        tool_calls=tuple(
            replace(
                call,
                id=new.get(f"{place}.tool_calls[{number}].id", call.id),
                name=new.get(f"{place}.tool_calls[{number}].name", call.name),
                arguments=new.get(f"{place}.tool_calls[{number}].arguments", call.arguments),
            )
            for number, call in enumerate(message.tool_calls)
        ),
        tool_call_id=_changed(new, f"{place}.tool_call_id", message.tool_call_id),
        refusal=_changed(new, f"{place}.refusal", message.refusal),
    )


def _rewritten_part(part: Part, place: str, new: Mapping[str, str]) -> Part:
    fields = {field: new[f"{place}.{field}"] for field, _ in _part_texts(part) if f"{place}.{field}" in new}
    return replace(part, **fields) if fields else part


def _part_texts(part: Part) -> Iterator[Located]:
    """What can be read of a part: never the bytes of an image, a recording or a file."""
    if isinstance(part, TextPart):
        yield "text", part.text
    elif isinstance(part, RefusalPart):
        yield "refusal", part.refusal
    elif isinstance(part, ImagePart):
        if not part.url.startswith("data:"):
            yield "url", part.url
    elif isinstance(part, FilePart):
        if part.file_id:
            yield "file_id", part.file_id
        if part.filename:
            yield "filename", part.filename
    elif isinstance(part, ThinkingPart):
        if part.thinking:
            yield "thinking", part.thinking
        if part.signature:
            yield "signature", part.signature
        if part.redacted:
            yield "redacted", part.redacted


def _message_rest(message: Message) -> Iterator[Located]:
    if message.name:
        yield "name", message.name
    for number, call in enumerate(message.tool_calls):
        yield f"tool_calls[{number}].id", call.id
        yield f"tool_calls[{number}].name", call.name
        yield f"tool_calls[{number}].arguments", call.arguments
    if message.tool_call_id:
        yield "tool_call_id", message.tool_call_id
    if message.refusal:
        yield "refusal", message.refusal


def _tools(call: Call) -> Iterator[Located]:
    for index, tool in enumerate(call.tools):
        place = f"tools[{index}]"
        yield f"{place}.name", tool.name
        if tool.description:
            yield f"{place}.description", tool.description
        if tool.parameters:
            yield f"{place}.parameters", _json(tool.parameters)


def _inputs(call: Call) -> Iterator[Located]:
    for index, text in enumerate(call.inputs):
        if isinstance(text, str):
            yield f"{_input_field(call)}[{index}]", text
    if call.suffix:
        yield "suffix", call.suffix


def _input_field(call: Call) -> str:
    """What the caller calls `Call.inputs`."""
    return "prompt" if call.operation == "completion" else "input"


def _rest(call: Call) -> Iterator[Located]:
    if call.tool_choice is not None and call.tool_choice.name:
        yield "tool_choice.name", call.tool_choice.name
    form = call.response_format
    if form is not None:
        if form.name:
            yield "response_format.name", form.name
        if form.description:
            yield "response_format.description", form.description
        if form.schema:
            yield "response_format.schema", _json(form.schema)
    for index, text in enumerate(call.stop):
        yield f"stop[{index}]", text
    if call.user:
        yield "user", call.user
    if call.metadata:
        yield "metadata", _json(call.metadata)
    if call.extra:
        yield "extra", _json(call.extra)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _changed(new: Mapping[str, str], place: str, old: str | None) -> str | None:
    return new.get(place, old) if old is not None else None


_KINDS: Mapping[type, str] = {ImagePart: "image", AudioPart: "audio", FilePart: "file"}
