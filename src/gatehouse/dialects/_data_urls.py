"""Content that travels inside a request as a `data:` URL, taken apart for formats that want type and base64 by themselves."""

import re
from typing import Final

_DATA_URL: Final = re.compile(
    r"data:([a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,127})(?:;[a-z0-9_.-]{1,64}=[^;,]{0,256}){0,4};base64,", re.IGNORECASE
)


def split_data_url(url: str) -> tuple[str, str] | None:
    """Media type (lower case) and base64 text; None when `url` is not a base64 `data:` URL that names its type.

    The base64 is not looked at: it may be megabytes, and the target decodes it anyway.
    """
    head = _DATA_URL.match(url)
    return None if head is None else (head[1].lower(), url[head.end() :])
