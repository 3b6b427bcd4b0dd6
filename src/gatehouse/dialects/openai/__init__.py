"""The OpenAI API's wire format: `OpenAIDialect` inbound; requests, answers, streams and errors outbound."""

from gatehouse.dialects.openai.answers import decode_answer
from gatehouse.dialects.openai.dialect import OpenAIDialect
from gatehouse.dialects.openai.errors import decode_error
from gatehouse.dialects.openai.requests import encode_request
from gatehouse.dialects.openai.streams import StreamDecoder

__all__ = ["OpenAIDialect", "StreamDecoder", "decode_answer", "decode_error", "encode_request"]
