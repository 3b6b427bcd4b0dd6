"""Amazon Bedrock outbound: Converse and ConverseStream with AWS's binary framing, embeddings by InvokeModel, errors."""

from gatehouse.dialects.bedrock.answers import decode_answer
from gatehouse.dialects.bedrock.embeddings import decode_embedding, embedding_path, encode_embedding
from gatehouse.dialects.bedrock.errors import decode_error
from gatehouse.dialects.bedrock.requests import Guardrail, encode_request, request_path
from gatehouse.dialects.bedrock.streams import StreamDecoder

__all__ = [
    "Guardrail",
    "StreamDecoder",
    "decode_answer",
    "decode_embedding",
    "decode_error",
    "embedding_path",
    "encode_embedding",
    "encode_request",
    "request_path",
]
