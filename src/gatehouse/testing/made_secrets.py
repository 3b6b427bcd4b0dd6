"""Credentials that are nobody's, made when asked for, so that none stands in this repository or in a plug-in's tests.

Each has the shape its issuer gives it and content from a seed.
"""

import random
import string
from typing import Final

_ALNUM: Final = string.ascii_letters + string.digits
_URL: Final = _ALNUM + "-_"
_BASE64: Final = _ALNUM + "+/"


class SecretMaker:
    """Makes the same secrets for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not secret, that is the point

    def chars(self, alphabet: str, length: int) -> str:
        """`length` characters of `alphabet`, first and last not a separator."""
        core = "".join(self._random.choices(alphabet, k=length))
        ends = self._random.choices([character for character in alphabet if character.isalnum()], k=2)
        return ends[0] + core[1:-1] + ends[1]

    def pem(self, kind: str = "RSA ", lines: int = 6, end: str = "\n") -> str:
        """A private key block of `lines` full lines and a short one, whose line ends are `end`."""
        dashes = "-" * 5
        body = [self.chars(_BASE64, 64) for _ in range(lines)]
        name = f"{kind}PRIVATE KEY"
        return end.join([f"{dashes}BEGIN {name}{dashes}", *body, self.chars(_ALNUM, 18) + "==", f"{dashes}END {name}{dashes}"])

    def all(self) -> dict[str, list[tuple[str, str]]]:
        """For each rule of the secret pack: pairs of what stands before the secret, and the secret."""
        upper = string.ascii_uppercase + string.digits
        blocks = [self.pem(), self.pem("", 1), self.pem("OPENSSH ", 30), self.pem("EC ", 2, "\\n"), self.pem("ENCRYPTED ", 3, " ")]
        return {
            "aws-access-key": [("", start + "IA" + self.chars(upper, 16)) for start in ("AK", "AS")],
            "github-token": [
                *(("", f"gh{kind}" + "_" + self.chars(_ALNUM, 36)) for kind in "pousr"),
                ("", "github" + "_pat_" + self.chars(_ALNUM, 22) + "_" + self.chars(_ALNUM, 59)),
            ],
            "gitlab-token": [("", "glpat" + "-" + self.chars(_URL, 20))],
            "slack-token": [("", f"xox{kind}" + "-" + self.chars(string.digits, 12) + "-" + self.chars(_ALNUM, 24)) for kind in "bp"],
            "slack-webhook": [("https://hooks.slack.com" + "/services/", "/".join(self.chars(upper, n) for n in (11, 11, 24)))],
            "stripe-live-key": [("", kind + "_live_" + self.chars(_ALNUM, 24)) for kind in ("sk", "rk")],
            "openai-key": [("", "sk" + "-" + self.chars(_ALNUM, 48)), ("", "sk" + "-proj-" + self.chars(_URL, 120))],
            "anthropic-key": [("", "sk" + "-ant-" + "api03-" + self.chars(_URL, 93) + "AA")],
            "google-api-key": [("", "AI" + "za" + self.chars(_URL, 35))],
            "gcp-service-account": [(f'"private_key{quote}: {quote}', self.pem("", 4, "\\n")) for quote in ('"', '\\"')],
            "private-key": [("", block) for block in blocks],
            "jwt": [("", ".".join(["ey" + "J" + self.chars(_URL, 33), "ey" + "J" + self.chars(_URL, 90), self.chars(_URL, 43)]))],
            "gatehouse-key": [("", "gh" + "_live_" + self.chars(_ALNUM, 8) + "_" + self.chars(_ALNUM, 36))],
            "npm-token": [("", "npm" + "_" + self.chars(_ALNUM, 36))],
            "pypi-token": [("", "pypi" + "-AgE" + self.chars(_URL, 150))],
            "azure-storage-key": [("AccountName=a;Account" + "Key=", self.chars(_BASE64, 86) + "==")],
            "password-assignment": [("password" + ' = "', self.chars(_ALNUM, 12)), ("secret" + ": ", self.chars(_ALNUM, 10))],
        }

    def near_misses(self) -> dict[str, list[str]]:
        """For each rule: what begins like a secret and is none."""
        upper = string.ascii_uppercase + string.digits
        dashes = "-" * 5
        header = f"{dashes}BEGIN PRIVATE KEY{dashes}"
        return {
            "aws-access-key": ["AK" + "IA" + self.chars(upper, 15), "AKIA is how ids begin", "ak" + "ia" + self.chars(upper, 16).lower()],
            "github-token": ["ghp" + "_" + self.chars(_ALNUM, 20), "ghp_<your token>", "ghx" + "_" + self.chars(_ALNUM, 36)],
            "gitlab-token": ["glpat" + "-short"],
            "slack-token": ["xoxb-your-token", "xox" + "z-" + self.chars(_ALNUM, 24)],
            "slack-webhook": ["https://hooks.slack.com/services/"],
            "stripe-live-key": ["sk" + "_test_" + self.chars(_ALNUM, 24), "sk_live_..."],
            "openai-key": ["sk-" + "-".join(["some", "long", "slug", "of", "many", "words", "as", "in", "addresses"]), "task-" + "x" * 50],
            "anthropic-key": ["sk-ant-..."],
            "google-api-key": ["AI" + "za" + self.chars(_URL, 30)],
            "gcp-service-account": ['"private_key": "in the vault"'],
            "private-key": [
                f"A file with {header} at its top is a key: never send it. Note: really never.\nThat was all.",
                f"{dashes}BEGIN PUBLIC KEY{dashes}\n" + self.chars(_BASE64, 64) + "\n" + self.chars(_BASE64, 64),
                f"{header}\n{self.chars(_ALNUM, 30)}\n",
            ],
            "jwt": ["eyJ", "ey" + "J" + self.chars(_ALNUM, 200), "ey" + "J" + self.chars(_URL, 30) + "." + self.chars(_URL, 90)],
            "gatehouse-key": ["gh_live_<id>_<secret>", "gh" + "_live_" + self.chars(_ALNUM, 8)],
            "npm-token": ["npm_config_registry", "npm" + "_" + self.chars(_ALNUM, 35)],
            "pypi-token": ["pypi-server-of-the-house"],
            "azure-storage-key": ["AccountKey=<base64>", "AccountKey=" + self.chars(_BASE64, 40)],
            "password-assignment": ["password: str", "the password is in the vault", "secret = short"],
        }
