"""Proofs of reasoning (`ThinkingPart.signature`) that are a caller's to keep and send back to whoever made them.

A conversation may go on with another provider, which refuses a proof that it did not make. So a dialect whose proofs callers
get through another one's format names itself in them ("gemini:..."); a proof without a name is as the client's own API makes it.
"""


def is_foreign(signature: str) -> bool:
    """Whether the proof names a dialect that made it: nobody else can check it. Base64, which others are, has no colon."""
    return ":" in signature
