"""The Responses API inbound (`/v1/responses`): its requests as calls, core events as its objects and streams.

What stands behind is asked in its own words, whatever it is; targets that speak OpenAI's protocol are asked for chat completions.
"""

from gatehouse.dialects.openai.responses.dialect import ResponsesDialect
from gatehouse.dialects.openai.responses.items import write_items

__all__ = ["ResponsesDialect", "write_items"]
