"""Amazon Bedrock's Converse API, outbound: requests, answers, streams in AWS's binary framing, errors."""

from gatehouse.dialects.bedrock.answers import decode_answer
from gatehouse.dialects.bedrock.errors import decode_error
from gatehouse.dialects.bedrock.requests import encode_request, request_path
from gatehouse.dialects.bedrock.streams import StreamDecoder

__all__ = ["StreamDecoder", "decode_answer", "decode_error", "encode_request", "request_path"]
