"""The Anthropic API's wire format: `AnthropicDialect` inbound; requests, answers, streams and errors outbound."""

from gatehouse.dialects.anthropic.answers import decode_answer
from gatehouse.dialects.anthropic.dialect import AnthropicDialect
from gatehouse.dialects.anthropic.errors import decode_error
from gatehouse.dialects.anthropic.requests import encode_request
from gatehouse.dialects.anthropic.streams import StreamDecoder

__all__ = ["AnthropicDialect", "StreamDecoder", "decode_answer", "decode_error", "encode_request"]
