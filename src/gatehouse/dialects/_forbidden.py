"""Field names that are refused wherever a caller puts them, whatever a model's `extra_fields` list.

Each once let a caller of some gateway or server redirect a request, and the credentials with it, replace the template that
frames the prompt, or reach another machine's memory (security research, table 3.3, rows 16, 17, 32 and 33). A list of the
top level only was what row 17 was about, so this one is asked about every object.
"""

from typing import Any, Final

from gatehouse.core.errors import InvalidRequest
from gatehouse.dialects._json import MAX_DEPTH, child, fits, invalid, path_to

FORBIDDEN: Final = frozenset(
    {
        # where a request goes
        "api_base",
        "azure_endpoint",
        "base_url",
        "custom_llm_provider",
        "endpoint_url",
        "litellm_params",
        "model_list",
        "router_settings",
        "user_config",
        # under whose name
        "api_key",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "azure_ad_token",
        "vertex_credentials",
        # what is sent beside what was read
        "extra_body",
        "extra_headers",
        "extra_query",
        # how the server frames and runs it
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "kv_transfer_params",
        "logits_processors",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "vllm_xargs",
    }
)
_WORTH_A_LOOK: Final = (dict, list, int)


def forbidden(path: str) -> InvalidRequest:
    """The refusal of the forbidden field at `path`."""
    return invalid(path, "callers may not set this field.", "forbidden_field")


def refuse_forbidden(value: Any, path: str = "", names: frozenset[str] = FORBIDDEN) -> None:
    """Look at every object inside an opaque `value`. Where its names are the caller's own data, `names` is empty.

    Raises:
        InvalidRequest: naming the forbidden field, a value nested more than MAX_DEPTH levels deep, or an integer that 64 bits
            do not hold.
    """
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise invalid(path_to(node, value, path), f"nested more than {MAX_DEPTH} levels deep.")
        if type(node) is dict:
            if not names.isdisjoint(node):
                raise forbidden(child(path_to(node, value, path), next(name for name in node if name in names)))
            pending += [(item, depth + 1) for item in node.values() if type(item) in _WORTH_A_LOOK]
        elif type(node) is list:
            pending += [(item, depth + 1) for item in node if type(item) in _WORTH_A_LOOK]
        elif type(node) is int and not fits(node):
            raise invalid(path_to(node, value, path), "the integer does not fit 64 bits.")
