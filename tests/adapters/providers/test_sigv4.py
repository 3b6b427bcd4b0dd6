"""Signature Version 4 against AWS's own test suite."""

from datetime import UTC, datetime

import pytest

from gatehouse.adapters.providers._sigv4 import AwsKey, Scope, Signable, Signer, canonical_request
from gatehouse.core.secrets import Secret

# From the AWS Signature Version 4 test suite as it stands in awslabs/aws-c-auth (tests/aws-signing-test-suite/v4, Apache-2.0):
# each is the folder's name, its request, and the signature of its header-signed-request.txt. The key is the suite's example.
KEY = AwsKey("AKIDEXAMPLE", Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
SCOPE = Scope("us-east-1", "service")
MOMENT = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
HOST = {"host": "example.amazonaws.com"}
UNRESERVED = "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FORM_HASH = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
SUITE = {
    "get-vanilla": (Signable("GET", "/", HOST), None, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "post-vanilla": (Signable("POST", "/", HOST), None, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "get-unreserved": (Signable("GET", UNRESERVED, HOST), None, "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
    "get-utf8": (Signable("GET", "/\u1234", HOST), None, "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    "get-space-normalized": (
        Signable("GET", "/example space/", HOST),
        None,
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    "get-header-value-trim": (
        Signable("GET", "/", {**HOST, "my-header1": " value1", "my-header2": ' "a   b   c"'}),
        None,
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "post-x-www-form-urlencoded": (
        Signable(
            "POST",
            "/",
            {
                **HOST,
                "content-type": "application/x-www-form-urlencoded",
                "content-length": "13",
                "x-amz-content-sha256": FORM_HASH,
            },
            b"Param1=value1",
        ),
        None,
        "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
    ),
    "get-vanilla-with-session-token": (
        Signable("GET", "/", HOST),
        "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
    ),
    "post-sts-header-before": (
        Signable("POST", "/", HOST),
        "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi"
        "/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL6"
        "4lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==",
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
    ),
}


def signed(request: Signable, token: str | None = None) -> dict[str, str]:
    key = AwsKey(KEY.access_key_id, KEY.secret_access_key, Secret(token) if token else None)
    return dict(Signer(key, SCOPE).sign(request, MOMENT))


@pytest.mark.parametrize("name", SUITE)
def test_the_published_suite(name: str) -> None:
    """Methods, paths, white space in headers, bodies, session tokens: each signature as AWS publishes it."""
    request, token, signature = SUITE[name]
    headers = signed(request, token)
    assert headers["authorization"].endswith(f", Signature={signature}")
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, Signed")
    assert headers["x-amz-date"] == "20150830T123600Z"
    assert headers.get("x-amz-security-token") == token


def test_an_escaped_path_is_escaped_once_more() -> None:
    """As botocore's own vector (get-utf8.creq) has it, and as model ids with colons and ARNs with slashes need it."""
    assert canonical_request(Signable("GET", "/%E1%88%B4", HOST), []).splitlines()[1] == "/%25E1%2588%25B4"
    path = "/model/us.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse"
    assert canonical_request(Signable("POST", path, HOST), []).splitlines()[1] == path.replace("%", "%25")


def test_a_query_is_sorted_and_escaped() -> None:
    """By name, then by value, whatever the order it is sent in."""
    lines = canonical_request(Signable("GET", "/?b=2&a=x%20y&a=1&empty", HOST), []).splitlines()
    assert lines[1:3] == ["/", "a=1&a=x%20y&b=2&empty="]


def test_everything_that_matters_changes_the_signature() -> None:
    """Body, path, host, token, key, region and moment: nobody on the way can change one of them."""
    base = Signable("POST", "/a", HOST, b"{}")
    variants = [
        signed(base),
        signed(Signable("POST", "/a", HOST, b"{ }")),
        signed(Signable("POST", "/b", HOST, b"{}")),
        signed(Signable("POST", "/a", {"host": "other"}, b"{}")),
        signed(base, "token"),
        dict(Signer(AwsKey("AKIDEXAMPLE", Secret("other")), SCOPE).sign(base, MOMENT)),
        dict(Signer(KEY, Scope("eu-west-1", "service")).sign(base, MOMENT)),
        dict(Signer(KEY, SCOPE).sign(base, MOMENT.replace(second=1))),
    ]
    assert len({headers["authorization"].rpartition("=")[2] for headers in variants}) == len(variants)


def test_the_secret_is_nowhere_to_be_seen() -> None:
    """Neither in what is sent nor in what is printed."""
    assert KEY.secret_access_key.reveal() not in str(signed(Signable("GET", "/", HOST)))
    assert "wJalr" not in repr(KEY)


def test_a_new_day_is_signed_with_a_new_key() -> None:
    """What is kept from signature to signature is never a day old."""
    request, signer = Signable("GET", "/", HOST), Signer(KEY, SCOPE)
    moments = [MOMENT, MOMENT.replace(day=31), MOMENT]
    assert [signer.sign(request, moment) for moment in moments] == [Signer(KEY, SCOPE).sign(request, moment) for moment in moments]
