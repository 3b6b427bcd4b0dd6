"""Cohere's wire format (API version 2), outbound only: requests, answers, streams, embeddings and errors."""

from gatehouse.dialects.cohere.answers import decode_answer
from gatehouse.dialects.cohere.embeddings import decode_embeddings, encode_embeddings
from gatehouse.dialects.cohere.errors import decode_error
from gatehouse.dialects.cohere.requests import encode_request
from gatehouse.dialects.cohere.streams import StreamDecoder

__all__ = ["StreamDecoder", "decode_answer", "decode_embeddings", "decode_error", "encode_embeddings", "encode_request"]
