"""Texts of different messages put together where one may end in the middle of a secret and the next go on with it.

A model reads a conversation as one text, so a secret cut over two messages is a secret to it. To join what is not cut would raise
false alarms and cost every call, so nothing is joined unless a message ends with what could be the beginning of a finding. Messages
are read in their order, and those of the user once more without what was said between them.
"""

from typing import Final

from gatehouse.core.calls import Call, Message, TextPart
from gatehouse.core.ports import Scanner
from gatehouse.pipeline.texts import Located

LONGEST: Final = 8_192
"""Characters of a text that are looked at on either side of a cut."""
_MARK: Final = "-----"
"""What secrets with spaces in them begin with."""
_ENDS: Final = frozenset("_-+/=.")
"""What a piece of a secret may end with, beside letters and digits."""
_DECIDED: Final = frozenset("?!,;:)]}\"'` \n")
"""What no secret goes on after."""
_SHORT: Final = 16
"""Characters of a word that is taken for one when it looks like one."""


def cuts(call: Call, scanner: Scanner) -> list[Located]:
    """The place of each message that goes on with what an earlier one may have begun, and both put together."""
    messages = call.messages
    for message in messages[:-1]:
        content = message.content
        if isinstance(content, str) and content:
            end = content[-1]
            if (end in _DECIDED or (end == "." and " " in content[-_SHORT:])) and _MARK not in content:
                continue  # nearly every message
        if _begun(_ends(message)[1], scanner):
            break
    else:
        return []
    found = _in_turn([*enumerate(messages)], scanner)
    theirs = [(index, message) for index, message in enumerate(messages) if message.role == "user"]
    if 1 < len(theirs) < len(messages):
        found += [each for each in _in_turn(theirs, scanner) if each not in found]
    return found


def _in_turn(messages: list[tuple[int, Message]], scanner: Scanner) -> list[Located]:
    found: list[Located] = []
    begun = ""
    for index, message in messages:
        first, last = _ends(message)
        if not first and not last:
            continue
        if begun:
            found.append((f"messages[{index}].content", begun + first[:LONGEST]))
            if first is last and len(last) < LONGEST:
                # A short piece between two cuts.
                last = begun + last
        begun = _begun(last, scanner)
    return found


def _ends(message: Message) -> tuple[str, str]:
    """The first and the last text of a message; the same when there is one."""
    content = message.content
    if isinstance(content, str):
        return content, content
    texts = [part.text for part in content or () if isinstance(part, TextPart)]
    return (texts[0], texts[-1]) if texts else ("", "")


def _begun(text: str, scanner: Scanner) -> str:
    """The end of `text` that more text could make a finding; "" when it is decided."""
    tail = text[-LONGEST:]
    if _MARK not in tail:
        # Prose ends with a word; what is longer than that has no spaces.
        tail = tail[tail.rfind(" ") + 1 :]
        if not tail or _is_prose(tail):
            return ""
    held = scanner.hold_back(tail)
    return tail[-held - 1 :] if held else ""


def _is_prose(word: str) -> bool:
    """Whether a word at the end of a message is one, or a mark stands behind it that no secret has inside."""
    end = word[-1]
    if not end.isalnum():
        if end not in _ENDS:
            return True
        if end == "." and len(word) <= _SHORT:
            return True  # a secret that has dots has them further apart
    return len(word) <= _SHORT and word.isalpha() and (word.islower() or word.istitle())
