"""The key ring: configured keys, a key set in a file, and one behind a URL that rotates and fails.

The identity provider is a real HTTP server on loopback whose behaviour the tests switch.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm

from clarion_server.auth import Authenticator, KeyUnknown, TokenRefused, mint, token_claims
from clarion_server.auth.keys import KeyRing, KeysError
from clarion_server.options import AuthOptions, KeyOptions
from support.waiting import until

NOW = 1_790_000_000.0
SECRET = "a secret of at least thirty-two bytes"


class SigningKey:
    """A key of the identity provider: it signs, and publishes its public half."""

    def __init__(self, kid: str) -> None:
        self._private = ec.generate_private_key(ec.SECP256R1())
        self.kid = kid
        self.jwk = {**ECAlgorithm.to_jwk(self._private.public_key(), as_dict=True), "kid": kid}
        self.pem = self._private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def token(self) -> str:
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return mint(token_claims(sub="42", ttl=60, now=NOW), pem, "ES256", self.kid)


OLD, NEW = SigningKey("old"), SigningKey("new")


def key_set(*keys: SigningKey) -> bytes:
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


class Provider:
    """An identity provider's web server. `answer` is what it does with the next requests."""

    def __init__(self) -> None:
        self.asked = 0
        self.url = ""
        self.answer: Callable[[web.Request], object] = self.good(OLD)
        self.released = asyncio.Event()

    def good(self, *keys: SigningKey) -> Callable[[web.Request], object]:
        return lambda _: web.Response(body=key_set(*keys), content_type="application/json")

    async def hang(self) -> web.Response:
        await self.released.wait()
        return web.Response(body=key_set(NEW))

    async def drip(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while not self.released.is_set():
            await answer.write(b" ")
            await asyncio.sleep(0.01)
        return answer

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        answer = self.answer(request)
        if asyncio.iscoroutine(answer):
            answer = await answer
        assert isinstance(answer, web.StreamResponse)
        return answer


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_get("/keys", provider.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    address: tuple[str, int] = runner.addresses[0]
    provider.url = f"http://127.0.0.1:{address[1]}/keys"
    yield provider
    provider.released.set()
    await runner.cleanup()


def url_options(url: str, cache_s: float = 300, timeout_s: float = 5) -> AuthOptions:
    return AuthOptions(jwks_url=url, jwks_cache_s=cache_s, jwks_timeout_s=timeout_s)


@asynccontextmanager
async def running(ring: KeyRing) -> AsyncIterator[KeyRing]:
    await ring.start()
    async with asyncio.TaskGroup() as tasks:
        run = tasks.create_task(ring.run())
        yield ring
        run.cancel()
    await ring.close()


def accepts(ring: KeyRing, key: SigningKey) -> bool:
    try:
        return Authenticator(AuthOptions(), ring).verify(key.token(), NOW).user == "42"
    except TokenRefused:
        return False


# What is configured here


async def test_configured_keys_are_there_after_start(tmp_path: Path) -> None:
    pem, secret = tmp_path / "key.pem", tmp_path / "secret"
    pem.write_bytes(OLD.pem)
    secret.write_bytes(SECRET.encode() + b"\n")
    ring = KeyRing(
        AuthOptions(
            secret=SECRET,
            keys=(
                KeyOptions(kid="old", algorithm="ES256", public_key_file=str(pem)),
                KeyOptions(kid="file", secret_file=str(secret)),
            ),
        )
    )
    await ring.start()
    claims = token_claims(sub="42", ttl=60, now=NOW)
    for token in (mint(claims, SECRET, "HS256", "file"), mint(claims, SECRET, "HS256", "other")):
        assert Authenticator(AuthOptions(), ring).verify(token, NOW).user == "42"
    assert accepts(ring, OLD)
    assert ring.loaded
    assert not await ring.refetch()
    await ring.run()  # nothing can change, so it returns
    await ring.close()


async def test_random_bytes_that_end_like_a_line_are_kept_whole(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff" * 31 + b"\n")
    ring = KeyRing(AuthOptions(keys=(KeyOptions(kid="k", secret_file=str(secret)),)))
    await ring.start()
    assert ring.find("HS256", "k")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (AuthOptions(secret="short"), r"auth\.secret has 5 bytes"),
        (AuthOptions(keys=(KeyOptions(secret="short"),)), r"auth\.keys\[0\]\.secret has 5"),
        (AuthOptions(keys=(KeyOptions(),)), r"auth\.keys\[0\] needs one of"),
        (AuthOptions(keys=(KeyOptions(secret=SECRET, secret_file="x"),)), "needs one of"),
        (
            AuthOptions(
                keys=(KeyOptions(secret=SECRET), KeyOptions(secret=SECRET, algorithm="RS256"))
            ),
            r"auth\.keys\[1\]\.secret RS256 takes a public key",
        ),
        (
            AuthOptions(keys=(KeyOptions(secret_file="/does/not/exist"),)),
            r"auth\.keys\[0\]\.secret_file cannot be read: No such file",
        ),
        (AuthOptions(secret=SECRET, keys=(KeyOptions(secret=SECRET),)), "two keys for HS256"),
        (AuthOptions(secret=SECRET, algorithms=("ES256",)), r"auth\.algorithms leaves out HS256"),
        (AuthOptions(jwks_file="/does/not/exist"), r"auth\.jwks_file cannot be read"),
    ],
)
async def test_a_key_that_cannot_be_used_stops_the_start_and_names_its_option(
    options: AuthOptions, complaint: str
) -> None:
    with pytest.raises(KeysError, match=complaint) as caught:
        await KeyRing(options).start()
    assert "short" not in str(caught.value)


# A key set in a file


async def test_a_file_is_read_again_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(OLD))
    async with running(KeyRing(AuthOptions(jwks_file=str(path)), file_s=0.01)) as ring:
        assert accepts(ring, OLD)
        assert not accepts(ring, NEW)
        (tmp_path / "next.json").write_bytes(key_set(NEW))
        os.replace(tmp_path / "next.json", path)
        await until(lambda: accepts(ring, NEW))
        assert not accepts(ring, OLD)


@pytest.mark.parametrize("content", [b"", b'{"keys":[', b'{"keys":[]}', b"x" * (1024 * 1024 + 1)])
async def test_a_file_that_is_broken_leaves_the_keys_in_force(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(OLD))
    async with running(KeyRing(AuthOptions(jwks_file=str(path)), file_s=0.01)) as ring:
        path.write_bytes(content)
        await until(lambda: ring.failures > 0)
        assert accepts(ring, OLD)
        path.write_bytes(key_set(NEW))
        await until(lambda: accepts(ring, NEW))


async def test_a_file_may_hold_shared_secrets(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text('{"keys":[{"kty":"oct","kid":"k","k":"' + "c2Vj" * 12 + '"}]}')
    ring = KeyRing(AuthOptions(jwks_file=str(path)))
    await ring.start()
    token = mint(token_claims(sub="42", ttl=60, now=NOW), b"sec" * 12, "HS256", "k")
    assert Authenticator(AuthOptions(), ring).verify(token, NOW).user == "42"


# A key set behind a URL


async def test_rotation_a_new_key_is_fetched_when_a_token_asks_for_it(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url))) as ring:
        authenticator = Authenticator(AuthOptions(), ring)
        assert accepts(ring, OLD)
        provider.answer = provider.good(OLD, NEW)
        with pytest.raises(KeyUnknown):
            authenticator.verify(NEW.token(), NOW)
        assert await ring.refetch()
        assert authenticator.verify(NEW.token(), NOW).user == "42"
        assert accepts(ring, OLD)


async def test_rotation_is_noticed_in_the_background_and_a_withdrawn_key_is_forgotten(
    provider: Provider,
) -> None:
    async with running(KeyRing(url_options(provider.url, cache_s=0.05))) as ring:
        provider.answer = provider.good(NEW)
        await until(lambda: accepts(ring, NEW))
        assert not accepts(ring, OLD)
        assert ring.failures == 0
        assert ring.fetches >= 2


FAILURES: dict[str, Callable[[Provider, web.Request], object]] = {
    "status": lambda *_: web.Response(status=500, body=key_set(NEW)),
    "not found": lambda *_: web.Response(status=404, body=key_set(NEW)),
    "redirect": lambda provider, _: web.Response(status=302, headers={"Location": provider.url}),
    "html": lambda *_: web.Response(text="<html>log in</html>"),
    "no keys": lambda *_: web.Response(text='{"keys":[]}'),
    "a list": lambda *_: web.Response(text="[]"),
    "secrets": lambda *_: web.Response(
        text='{"keys":[{"kty":"oct","kid":"new","k":"' + "c2Vj" * 12 + '"}]}'
    ),
    "too much": lambda *_: web.Response(body=key_set(NEW) + b" " * 1024 * 1024),
    "compressed": lambda *_: web.Response(
        body=gzip.compress(key_set(NEW)), headers={"Content-Encoding": "gzip"}
    ),
    "broken off": lambda _, request: break_off(request),
    "silence": lambda provider, _: provider.hang(),
    "a drip": lambda provider, request: provider.drip(request),
}


async def break_off(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"{")
    assert request.transport is not None
    request.transport.abort()
    return answer


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_provider_that_fails_leaves_the_keys_in_force_and_is_asked_again(
    provider: Provider, failure: str
) -> None:
    options = url_options(provider.url, cache_s=0.1, timeout_s=0.2)
    async with running(KeyRing(options, retry_s=0.02)) as ring:
        provider.answer = lambda request: FAILURES[failure](provider, request)
        await until(lambda: ring.failures >= 2)
        assert accepts(ring, OLD)
        assert not accepts(ring, NEW)
        provider.answer = provider.good(NEW)
        await until(lambda: accepts(ring, NEW))


async def test_a_published_secret_is_left_out_of_a_set(provider: Provider) -> None:
    secret = {"kty": "oct", "kid": "new", "k": "c2Vj" * 12}
    provider.answer = lambda _: web.Response(text=json.dumps({"keys": [secret, OLD.jwk]}))
    async with running(KeyRing(url_options(provider.url))) as ring:
        assert accepts(ring, OLD)
        assert not ring.has("new")


async def test_a_provider_that_is_down_does_not_stop_the_start(provider: Provider) -> None:
    provider.answer = lambda _: web.Response(status=503)
    async with running(KeyRing(url_options(provider.url), retry_s=0.02)) as ring:
        assert ring.failures == 1
        assert not ring.loaded
        provider.answer = provider.good(OLD)
        await until(lambda: ring.loaded)
        assert accepts(ring, OLD)


async def test_a_provider_that_nobody_listens_for_does_not_stop_the_start() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ring = KeyRing(url_options(f"http://127.0.0.1:{closed.getsockname()[1]}/keys"))
        await ring.start()
    assert ring.failures == 1


async def test_attack_unknown_kids_cause_one_fetch_in_ten_seconds(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url))) as ring:
        assert provider.asked == 1
        provider.answer = provider.good(NEW)
        assert all(await asyncio.gather(*(ring.refetch() for _ in range(100))))
        assert provider.asked == 2
        provider.answer = provider.good(OLD)
        assert not any(await asyncio.gather(*(ring.refetch() for _ in range(100))))
        assert provider.asked == 2


async def test_after_a_while_an_unknown_kid_may_cause_a_fetch_again(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url), refetch_s=0.05)) as ring:
        assert not await ring.refetch()
        provider.answer = provider.good(NEW)
        async with asyncio.timeout(5):
            while not await ring.refetch():  # noqa: ASYNC110 - asking is what is tested
                await asyncio.sleep(0.005)
        assert accepts(ring, NEW)


async def test_callers_share_one_round_and_all_hear_of_its_outcome(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url))) as ring:
        provider.answer = lambda _: provider.hang()
        async with asyncio.TaskGroup() as tasks:
            callers = [tasks.create_task(ring.refetch()) for _ in range(10)]
            await until(lambda: provider.asked == 2)
            provider.released.set()
        assert [caller.result() for caller in callers] == [True] * 10
        assert provider.asked == 2


async def test_a_caller_that_leaves_does_not_take_the_round_along(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url))) as ring:
        provider.answer = lambda _: provider.hang()
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(ring.refetch())
            await until(lambda: provider.asked == 2)
            second = tasks.create_task(ring.refetch())
            first.cancel()
            await until(first.done)
            provider.released.set()
        assert second.result()
        assert accepts(ring, NEW)


async def test_closing_ends_the_wait_for_a_provider_that_hangs(provider: Provider) -> None:
    async with running(KeyRing(url_options(provider.url))) as ring:
        provider.answer = lambda _: provider.hang()
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(ring.refetch())
            await until(lambda: provider.asked == 2)
            async with asyncio.timeout(1):
                await ring.close()
        assert not caller.result()
        assert not await ring.refetch()


async def test_the_loop_goes_on_while_a_provider_hangs(provider: Provider) -> None:
    """Tokens signed with known keys are checked meanwhile, without a wait."""
    async with running(KeyRing(url_options(provider.url))) as ring:
        provider.answer = lambda _: provider.hang()
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(ring.refetch())
            await until(lambda: provider.asked == 2)
            assert accepts(ring, OLD)
            assert not caller.done()
            provider.released.set()


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com/keys",
        "http://127.0.0.1.evil.example/keys",
        "http://localhost.evil.example/keys",
        "http://0.0.0.0/keys",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "//id.example.com/keys",
        "https:///keys",
        "keys",
        "http://[::1/keys",
    ],
)
def test_attack_a_url_that_others_could_answer_for_is_refused(url: str) -> None:
    with pytest.raises(KeysError, match=r"auth\.jwks_url (must be https|is not a URL)"):
        KeyRing(url_options(url))


def test_a_url_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(KeysError, match=r"auth\.jwks_url must not hold") as caught:
        KeyRing(url_options("https://me:hidden@id.example.com/keys"))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://id.example.com/keys", "http://[::1]:8080/keys", "http://localhost/keys"]
)
def test_https_and_loopback_urls_are_taken(url: str) -> None:
    assert not KeyRing(url_options(url)).loaded
