"""`clarion token`: makes a token, to try things with; issuers have their own library."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import NamedTuple

from clarion_server import config
from clarion_server.auth import mint, token_claims
from clarion_server.auth.keyset import SECRET_BYTES
from clarion_server.cli.serve import add_config
from clarion_server.cli.terminal import Failure
from clarion_server.config.auth import secret_in
from clarion_server.config.files import BadFile, read_bytes
from clarion_server.options import ALGORITHMS, AuthOptions

_DURATION = re.compile(r"([0-9]{1,10})([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Key(NamedTuple):
    material: bytes
    algorithm: str
    kid: str


def duration(text: str) -> int:
    """Seconds, from 90, 90s, 15m, 1h or 30d. Raises `ArgumentTypeError`."""
    found = _DURATION.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 15m, 1h or 30d")
    return seconds


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sub", required=True, metavar="USER", help="who the token is for")
    parser.add_argument(
        "--ttl", type=duration, default=3600, metavar="TIME", help="90s, 15m, 1h, 30d (default: 1h)"
    )
    for name in ("subscribe", "publish"):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            action="extend",
            default=[],
            metavar="PATTERN",
            help=f"topics its bearer may {name} to, such as orders:*",
        )
    add_config(parser)
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help="sign with this private key (PEM) or secret, not with the configured one",
    )
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        metavar="NAME",
        help="of --key-file, such as RS256 (default: HS256)",
    )
    parser.add_argument("--kid", default="", help="of --key-file")
    parser.epilog = (
        "Signs with auth.secret of the configuration (CLARION_AUTH_SECRET), or else with the\n"
        "first [[auth.keys]] of an HS algorithm. Prints the token and nothing else:\n\n"
        '  clarion subscribe orders:42 --token "$(clarion token --sub 42 --subscribe orders:*)"'
    )


def run(options: argparse.Namespace) -> int:
    auth = config.load(options.config).auth
    key = _key_file(options) if options.key_file else _configured(auth)
    try:
        claims = token_claims(
            sub=options.sub,
            ttl=options.ttl,
            now=time.time(),
            subscribe=options.subscribe,
            publish=options.publish,
            audience=auth.audience,
            issuer=auth.issuer,
            subscribe_claim=auth.subscribe_claim,
            publish_claim=auth.publish_claim,
        )
        print(mint(claims, key.material, key.algorithm, key.kid))
    except ValueError as error:
        raise Failure(f"no token was made: {error}") from None
    return 0


def _key_file(options: argparse.Namespace) -> _Key:
    algorithm = options.algorithm or "HS256"
    try:
        if algorithm in SECRET_BYTES:
            material = secret_in(options.key_file)
        else:
            material = read_bytes(Path(options.key_file))
    except BadFile as error:
        raise Failure(str(error)) from None
    return _Key(material, algorithm, options.kid)


def _configured(auth: AuthOptions) -> _Key:
    if auth.secret:
        return _Key(auth.secret.encode(), "HS256", "")
    for key in auth.keys:
        if key.secret or key.secret_file:
            material = key.secret.encode() if key.secret else secret_in(key.secret_file)
            return _Key(material, key.algorithm, key.kid)
    raise Failure(
        "there is no secret to sign with",
        "Set auth.secret (CLARION_AUTH_SECRET), or name a file: --config FILE, --key-file FILE.",
    )
