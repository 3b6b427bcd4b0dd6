"""Gemini's wire format, outbound only: requests, answers, streams, embeddings and errors.

The Gemini API and Vertex AI speak it alike, save for embeddings."""

from gatehouse.dialects.gemini.answers import decode_answer
from gatehouse.dialects.gemini.embeddings import decode_embeddings, decode_predictions, encode_embeddings, encode_predictions
from gatehouse.dialects.gemini.errors import decode_error
from gatehouse.dialects.gemini.requests import encode_request
from gatehouse.dialects.gemini.streams import StreamDecoder

__all__ = [
    "StreamDecoder",
    "decode_answer",
    "decode_embeddings",
    "decode_error",
    "decode_predictions",
    "encode_embeddings",
    "encode_predictions",
    "encode_request",
]
