"""Who may use the private API, with keys and without."""

from __future__ import annotations

import pytest

from clarion_server.options import Config
from support.private_api import KEY, NAMESPACES, Api, serving

OTHER = "another key of sixteen characters"
MESSAGE = {"topic": "a", "data": 1}


def development() -> Config:
    return Config(development=True, api_host="box.example", namespaces=NAMESPACES)


# With keys


async def test_any_of_the_keys_opens_the_api_in_either_header() -> None:
    async with serving(Config(api_keys=(KEY, OTHER), namespaces=NAMESPACES)) as api:
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"Authorization": f"bearer  {OTHER}"},
            {"X-API-Key": OTHER},
            {"X-API-Key": KEY, "Authorization": "Basic Zm9vOmJhcg=="},
        ):
            assert (await api.get("/v1/info", key=None, headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": KEY},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "Bearer ÿé"},
        {"X-API-Key": ""},
        {"X-API-Key": KEY.upper()},
    ],
)
async def test_anything_else_is_a_401_that_says_how(headers: dict[str, str]) -> None:
    async with serving() as api:
        for method, path in (
            ("POST", "/v1/publish"),
            ("GET", "/v1/info"),
            ("GET", "/v1/nothing"),
            ("PUT", "/v1/publish"),
            ("GET", "/v1/openapi.json/"),
        ):
            answer = await api.request(method, path, key=None, headers=headers)
            assert answer.error == (401, "unauthorized")
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="clarion"'
        assert api.hub.received == 0


async def test_bytes_that_are_no_text_are_not_a_key() -> None:
    async with serving() as api:
        answer = await api.raw(
            b"GET /v1/info HTTP/1.1\r\nHost: x\r\nX-API-Key: \xff\xfe\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "path", ["/v1/%70ublish", "//v1/info", "/v1/../v1/info", "/v1//info", "/V1/info"]
)
async def test_another_spelling_of_a_path_is_no_way_around_the_key(path: str) -> None:
    async with serving() as api:
        assert (await api.get(path, key=None)).status in (401, 404)


async def test_probes_metrics_page_and_document_need_no_key() -> None:
    async with serving() as api:
        for path in ("/livez", "/readyz", "/metrics", "/", "/v1/openapi.json"):
            assert (await api.get(path, key=None)).status == 200


async def test_with_keys_the_content_type_does_not_matter() -> None:
    async with serving() as api:
        answer = await api.post("/v1/publish", MESSAGE, headers={"Content-Type": "text/plain"})
        assert answer.status == 200


# Without keys


async def publish(api: Api, headers: dict[str, str]) -> int:
    return (await api.post("/v1/publish", MESSAGE, key=None, headers=headers)).status


async def test_in_development_programs_on_the_machine_need_no_key() -> None:
    async with serving(development()) as api:
        assert await publish(api, {}) == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:8001", "localhost:8001", "BOX.example:8001"])
async def test_in_development_the_page_of_this_port_may_use_the_api(host: str) -> None:
    async with serving(development()) as api:
        assert await publish(api, {"Host": host, "Origin": f"http://{host}"}) == 200


@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:80010", "http://[", ""],
)
async def test_in_development_pages_of_other_origins_may_not(origin: str) -> None:
    async with serving(development()) as api:
        assert await publish(api, {"Host": "127.0.0.1:8001", "Origin": origin}) == 403
        assert api.hub.received == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8001", "", "::1x"]
)
async def test_in_development_a_name_that_is_not_ours_is_refused(host: str) -> None:
    async with serving(development()) as api:
        answer = await api.post("/v1/publish", MESSAGE, key=None, headers={"Host": host})
        assert answer.error == (403, "forbidden")
        assert (await api.get("/metrics", key=None, headers={"Host": host})).status == 403
        assert (await api.get("/livez", key=None, headers={"Host": host})).status == 200
        assert api.hub.received == 0


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
async def test_in_development_a_form_of_another_site_cannot_post(content_type: str) -> None:
    async with serving(development()) as api:
        answer = await api.post(
            "/v1/publish", MESSAGE, key=None, headers={"Content-Type": content_type}
        )
        assert answer.error == (415, "bad_request")
        assert api.hub.received == 0


async def test_in_development_a_preflight_is_not_granted() -> None:
    async with serving(development()) as api:
        answer = await api.request(
            "OPTIONS",
            "/v1/publish",
            key=None,
            headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        )
        assert answer.status == 403
        assert not any(name.startswith("Access-Control") for name in answer.headers)
