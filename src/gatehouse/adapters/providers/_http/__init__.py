"""Our own HTTP/1.1 client: one origin, one bounded pool, no redirects, every wait under a deadline.

It exists because general clients cost three to ten times more for each request, and because credentials, framing and
cancellation must be exact here. `client` is the front; `pool` lends connections, `connection` parses, `dialing` opens,
`tunnel` passes an egress proxy, `origin` says where credentials may go.
"""

from gatehouse.adapters.providers._http.client import HttpClient, HttpOptions, Prefix, written
from gatehouse.adapters.providers._http.origin import BaseUrl, Credentials, Origin, parse_base_url
from gatehouse.adapters.providers._http.pool import Pool, PoolOptions
from gatehouse.adapters.providers._http.reply import Reply
from gatehouse.adapters.providers._http.tunnel import ProxyServer, bypasses, parse_proxy

__all__ = (
    "BaseUrl",
    "Credentials",
    "HttpClient",
    "HttpOptions",
    "Origin",
    "Pool",
    "PoolOptions",
    "Prefix",
    "ProxyServer",
    "Reply",
    "bypasses",
    "parse_base_url",
    "parse_proxy",
    "written",
)
