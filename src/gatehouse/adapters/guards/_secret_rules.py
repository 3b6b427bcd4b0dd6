"""The rule pack for secrets: data only. Each rule is one kind of credential, told by the prefix its issuer gave it.

Only credentials with a shape of their own are here: a rule that fires on prose teaches people to switch the guard off.
`lead` must stand before the secret and is not part of it, so that `AccountKey=` stays readable after a redaction.
"""

from typing import Final

import msgspec

from gatehouse.adapters.guards._shapes import Shape, either, lit, maybe, one, run, seq, some

VERSION: Final = "2"
"""Raised with every change of a rule: it is part of each record's policy version."""

_ALNUM: Final = "0-9A-Za-z"
_URL: Final = "0-9A-Za-z_\\-"
_BASE64: Final = "0-9A-Za-z+/="


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """`longest` is how many characters a stream holds back for it at most: far more than the issuer's longest. What is longer
    is taken for something else; in a text that comes in one piece it is found all the same.

    `anywhere`: may follow a letter or digit directly. `default`: on unless left out. `flag_only`: too vague to act on.
    """

    id: str
    description: str
    secret: Shape
    lead: Shape | None = None
    longest: int = 512
    anywhere: bool = False
    default: bool = True
    flag_only: bool = False
    hint: str = ""
    """A cheaper one-pass pattern than the shape's own."""

    @property
    def whole(self) -> Shape:
        """Lead and secret."""
        return self.secret if self.lead is None else seq(self.lead, self.secret)


def rules() -> tuple[Rule, ...]:
    """All of them. Where two find the same text, the one that begins first, then the longer, gives its name."""
    return _of_clouds() + _of_code_hosts() + _of_models() + _of_services() + _of_anybody()


def _of_clouds() -> tuple[Rule, ...]:
    """Cloud providers."""
    return (
        Rule(
            id="aws-access-key",
            description="AWS access key id, long-term or temporary",
            secret=seq(either(lit("AKIA"), lit("ASIA"), lit("ABIA"), lit("ACCA")), run("0-9A-Z", 16)),
        ),
        Rule(
            id="google-api-key",
            description="Google API key",
            secret=seq(lit("AIza"), run(_URL, 35)),
        ),
        Rule(
            id="gcp-service-account",
            description="private key inside a Google Cloud service account file",
            lead=seq(lit("private_key"), run('"\\\\'), run(" "), lit(":"), run(" "), run('"\\\\')),
            secret=_pem_block(),
            longest=8192,
            hint='private_key["\\\\ :]+-----BEGIN [0-9A-Z ]*PRIVATE KEY',
        ),
        Rule(
            id="azure-storage-key",
            description="account key of an Azure storage connection string",
            lead=lit("AccountKey="),
            secret=run(_BASE64, 86),
        ),
    )


def _of_code_hosts() -> tuple[Rule, ...]:
    """Code hosts and package registries."""
    return (
        Rule(
            id="github-token",
            description="GitHub personal, OAuth, app and refresh tokens",
            secret=either(
                seq(lit("gh"), one("oprsu"), lit("_"), run(_ALNUM, 36)),
                seq(lit("github_pat_"), run("0-9A-Za-z_", 70)),
            ),
        ),
        Rule(
            id="gitlab-token",
            description="GitLab personal access token",
            secret=seq(lit("glpat-"), run(_URL, 20)),
        ),
        Rule(
            id="npm-token",
            description="npm access token",
            secret=seq(lit("npm_"), run(_ALNUM, 36)),
        ),
        Rule(
            id="pypi-token",
            description="PyPI upload token",
            secret=seq(lit("pypi-AgE"), run(_URL, 50)),
        ),
    )


def _of_models() -> tuple[Rule, ...]:
    """Model providers and this gateway."""
    return (
        Rule(
            id="openai-key",
            description="OpenAI project, service account, admin and classic keys",
            secret=seq(
                lit("sk-"),
                either(seq(either(lit("proj"), lit("svcacct"), lit("admin")), lit("-"), run(_URL, 40)), run(_ALNUM, 40)),
            ),
        ),
        Rule(
            id="anthropic-key",
            description="Anthropic API and admin keys",
            secret=seq(lit("sk-ant-"), run(_URL, 32)),
        ),
        Rule(
            id="gatehouse-key",
            description="a key of this gateway",
            secret=seq(lit("gh_live_"), run(_ALNUM, 8), lit("_"), run(_ALNUM, 30)),
        ),
    )


def _of_services() -> tuple[Rule, ...]:
    """Messages and payments."""
    return (
        Rule(
            id="slack-token",
            description="Slack bot, user, app and configuration tokens",
            secret=seq(either(seq(lit("xox"), one("abceoprs")), lit("xapp")), lit("-"), run("0-9A-Za-z\\-", 20)),
        ),
        Rule(
            id="slack-webhook",
            description="Slack incoming webhook address",
            lead=lit("hooks.slack.com/services/"),
            secret=run("0-9A-Za-z/", 40),
        ),
        Rule(
            id="stripe-live-key",
            description="Stripe secret or restricted key of a live account",
            secret=seq(either(lit("sk"), lit("rk")), lit("_live_"), run(_ALNUM, 20)),
        ),
    )


def _of_anybody() -> tuple[Rule, ...]:
    """Formats that everybody uses."""
    return (
        Rule(
            id="private-key",
            description="private key in PEM or OpenPGP armour",
            secret=_pem_block(),
            longest=8192,
            anywhere=True,
            hint="-----BEGIN [0-9A-Z ]*PRIVATE KEY",
        ),
        Rule(
            id="jwt",
            description="signed JSON Web Token",
            secret=seq(lit("eyJ"), run(_URL, 10), lit(".eyJ"), run(_URL, 10), lit("."), run(_URL, 20)),
            longest=8192,
        ),
        Rule(
            id="password-assignment",
            description="something called a password that is given a value",
            lead=seq(
                either(lit("password"), lit("Password"), lit("PASSWORD"), lit("passwd"), lit("secret"), lit("SECRET")),
                run("\"'\\\\"),
                run(" "),
                one(":="),
                run(" "),
                run("\"'\\\\"),
            ),
            secret=run("!#-&*+\\--:<-\\[\\]-~", 8),
            default=False,
            flag_only=True,
        ),
    )


def _pem_block() -> Shape:
    """BEGIN line, optional header fields, base64 lines, and the END line when it is there.

    Line ends may be spaces or escaped (`\\n`), as in JSON and environment files. A mere mention of the BEGIN line is no key:
    at least 40 characters of base64 must follow. Without an END line the block ends where the base64 does.
    """
    gap = either(one(" \\t\\r\\n"), seq(lit("\\"), one("nrt")))
    name = run("0-9A-Z ")
    field = seq(run("A-Za-z\\-", 1), lit(": "), run("!-\\[\\]-~ ", 1), gap)
    end = seq(lit("-----END "), name, lit("-----"))
    return seq(
        lit("-----BEGIN "),
        name,
        lit("PRIVATE KEY"),
        maybe(lit(" BLOCK")),
        lit("-----"),
        some(gap),
        some(seq(field, some(gap))),
        run(_BASE64, 40),
        some(seq(gap, some(gap), run(_BASE64, 20))),
        maybe(seq(some(gap), run(_BASE64), some(gap), end)),
    )
