"""Whose tokens are accepted: `[auth]`, and each `[[auth.keys]]`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from clarion_server.option_values import Section, option

Algorithm: TypeAlias = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
]  # fmt: skip
"""Signature algorithms of tokens (RFC 7518, section 3.1; RFC 8037 for EdDSA)."""

ALGORITHMS: tuple[Algorithm, ...] = (
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
)  # fmt: skip


class KeyOptions(Section, frozen=True, kw_only=True):
    """One `[[auth.keys]]`: a key that tokens may be signed with."""

    kid: Annotated[
        str,
        option(
            "the `kid` in the header of tokens signed with this key",
            "Needed only when there is more than one key.",
        ),
    ] = ""
    algorithm: Annotated[
        Algorithm,
        option(
            "the only algorithm this key is used with",
            "A key bound to one algorithm cannot be misused with another (RFC 8725, 3.1).",
        ),
    ] = "HS256"
    secret: Annotated[
        str,
        option(
            "the shared secret itself (HS algorithms)",
            "No default: a secret that ships with a program is none.",
            secret=True,
        ),
    ] = ""
    secret_file: Annotated[
        str,
        option(
            "a file that holds the shared secret; a line break at its end is ignored",
            "Empty: `secret` or `public_key_file` is used.",
        ),
    ] = ""
    public_key_file: Annotated[
        str,
        option(
            "a PEM file with the public key (RS, ES and EdDSA algorithms)",
            "Empty: `secret` or `secret_file` is used.",
        ),
    ] = ""


class AuthOptions(Section, frozen=True, kw_only=True):
    """`[auth]`: whose tokens are accepted, and what is read from them."""

    anonymous: Annotated[
        bool,
        option(
            "whether a client without a token is welcome",
            "Closed unless it is opened on purpose; true in development.",
        ),
    ] = False
    secret: Annotated[
        str,
        option(
            "one HS256 secret, the simple case",
            "No default: a secret that ships with a program is none.",
            secret=True,
        ),
    ] = ""
    keys: tuple[KeyOptions, ...] = ()
    jwks_file: Annotated[
        str,
        option("a JSON Web Key Set with public keys (RFC 7517)", "Empty: there is none."),
    ] = ""
    jwks_url: Annotated[
        str,
        option(
            "where the identity provider publishes its JSON Web Key Set; https, or loopback",
            "Empty: there is none.",
        ),
    ] = ""
    jwks_cache_s: Annotated[
        float,
        option(
            "how long a key set that was fetched is used before it is fetched again",
            "Five minutes: the usual max-age of providers' key sets, and soon enough to forget"
            " a key that was withdrawn.",
            unit="s",
            least=1,
            most=86_400,
        ),
    ] = 300
    jwks_timeout_s: Annotated[
        float,
        option(
            "the deadline of one fetch of the key set",
            "Half of `limits.connect_s`, so that a client waiting for it still hears the outcome.",
            unit="s",
            least=0.1,
            most=60,
        ),
    ] = 5
    algorithms: Annotated[
        tuple[Algorithm, ...],
        option(
            "algorithms that are accepted at all",
            "All that are sound; of these, only those for which there is a key matter.",
        ),
    ] = ALGORITHMS
    issuer: Annotated[str, option("the `iss` that a token must have", "Empty: not checked.")] = ""
    audience: Annotated[
        str,
        option(
            "the `aud` that a token must have",
            "Empty: a token that is meant for somebody (has an `aud`) is refused"
            " (RFC 7519, 4.1.3).",
        ),
    ] = ""
    leeway_s: Annotated[
        float,
        option(
            "how far the clocks of issuer and server may be apart when times are checked",
            "Ten seconds cover hosts that keep time by NTP, with room to spare.",
            unit="s",
            least=0,
            most=300,
        ),
    ] = 10
    subscribe_claim: Annotated[
        str,
        option(
            "the claim with the topic patterns that its bearer may subscribe to",
            "The word of the protocol's op.",
        ),
    ] = "subscribe"
    publish_claim: Annotated[
        str,
        option(
            "the claim with the topic patterns that its bearer may publish to",
            "The word of the protocol's op.",
        ),
    ] = "publish"
    token_bytes: Annotated[
        int,
        option(
            "the longest token that is looked at",
            "Half of `limits.head_bytes`: a token in the URL or a header leaves room for the rest.",
            unit="bytes",
            least=256,
            most=65_536,
        ),
    ] = 8192
