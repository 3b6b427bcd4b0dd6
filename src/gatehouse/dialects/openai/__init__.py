"""The OpenAI API's wire formats: a dialect inbound for each of its endpoints; requests, answers, streams and errors outbound."""

from gatehouse.dialects.openai.answers import decode_answer
from gatehouse.dialects.openai.completions import (
    CompletionStreamDecoder,
    OpenAICompletionsDialect,
    decode_completion,
    encode_completion_request,
)
from gatehouse.dialects.openai.dialect import OpenAIDialect
from gatehouse.dialects.openai.embeddings import OpenAIEmbeddingsDialect, decode_embeddings, encode_embedding_request
from gatehouse.dialects.openai.errors import decode_error
from gatehouse.dialects.openai.requests import encode_request
from gatehouse.dialects.openai.streams import StreamDecoder

__all__ = [
    "CompletionStreamDecoder",
    "OpenAICompletionsDialect",
    "OpenAIDialect",
    "OpenAIEmbeddingsDialect",
    "StreamDecoder",
    "decode_answer",
    "decode_completion",
    "decode_embeddings",
    "decode_error",
    "encode_completion_request",
    "encode_embedding_request",
    "encode_request",
]
