"""One attempt at an outgoing request, with real sockets: where it goes, where it does not, when it ends."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
import trio
import trustme
from outside import Heard, Names, answer, outside, says

from inversion.delivery.attempt import Way
from inversion.protocol.destination import AllowList, read_entry
from inversion.protocol.outgoing import Ending, Failed, Outbound, Reply, read_outbound

#: What a slow machine needs for a handshake.
LONG_S = 20.0


def way(*allow: str, timeout_s: float = LONG_S, body_bytes: int = 10_000) -> Way:
    return Way(AllowList(tuple(map(read_entry, allow))), timeout_s, body_bytes)


def request(url: str, **more: object) -> Outbound:
    return read_outbound(orjson.dumps({"url": url, **more}), "effect-1")


def names(**addresses: Sequence[Sequence[str]]) -> Names:
    """`api_test=[["127.0.0.1"]]` is what api.test stands for."""
    resolver = Names({name.replace("_", "."): found for name, found in addresses.items()})
    trio.socket.set_custom_hostname_resolver(resolver)
    return resolver


async def failing(way: Way, outbound: Outbound) -> Failed:
    with trio.fail_after(2 * LONG_S), pytest.raises(Failed) as caught:
        await way.ask(outbound)
    assert "secret" not in str(caught.value)
    return caught.value


async def asking(way: Way, outbound: Outbound) -> Reply:
    with trio.fail_after(2 * LONG_S):
        return await way.ask(outbound)


async def test_a_request_comes_to_the_address_that_its_name_stands_for() -> None:
    names(api_test=[["127.0.0.1"]])
    async with outside(says(answer(201, b"made"))) as server:
        url = f"http://api.test:{server.port}/a?secret=1"
        reply = await asking(way(f"http://api.test:{server.port}", "127.0.0.1"), request(url, body={"a": 1}))
        assert (reply.status, reply.body) == (201, b"made")
        heard = server.heard[0]
        assert (heard.method, heard.target, heard.body) == ("POST", "/a?secret=1", b'{"a":1}')
        assert heard.fields["host"] == f"api.test:{server.port}"
        assert heard.key == "effect-1"


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "a loopback"),
        ("::1", "a loopback"),
        ("10.1.2.3", "a private"),
        ("192.168.0.1", "a private"),
        ("169.254.1.1", "a link-local"),
        ("169.254.169.254", "a metadata"),
        ("fe80::1", "a link-local"),
        ("fd00::1", ""),
        ("0.0.0.0", "an unspecified"),
        ("::ffff:127.0.0.1", "a v4-mapped"),
    ],
)
async def test_a_name_that_stands_for_an_inner_address_is_refused(address: str, what: str) -> None:
    resolver = names(api_test=[[address]])
    async with outside(says(answer())) as server:
        url = f"http://api.test:{server.port}/secret"
        failed = await failing(way(f"http://api.test:{server.port}"), request(url))
        assert failed.ending is Ending.REFUSED
        assert f"{what} " in str(failed)
        assert (server.connections, resolver.asked["api.test"]) == (0, 1)


async def test_a_name_with_one_good_and_one_inner_address_goes_to_the_good_one_only() -> None:
    names(api_test=[["127.0.0.2", "127.0.0.1"]])
    async with outside(says(answer())) as server:
        url = f"http://api.test:{server.port}/"
        assert (await asking(way(f"http://api.test:{server.port}", "127.0.0.1"), request(url))).status == 200
        assert server.connections == 1


async def test_what_a_name_stands_for_a_moment_later_does_not_matter() -> None:
    """DNS rebinding: the address that was checked is the one that is connected to."""
    resolver = names(good_test=[["127.0.0.1"], ["127.0.0.2"]])
    async with outside(says(answer())) as server:
        url = f"http://good.test:{server.port}/"
        allowed = way(f"http://good.test:{server.port}", "127.0.0.1")
        assert (await asking(allowed, request(url))).status == 200
        assert resolver.asked["good.test"] == 1
        failed = await failing(allowed, request(url))  # now it stands for another
        assert failed.ending is Ending.REFUSED
        assert (server.connections, resolver.asked["good.test"]) == (1, 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254"])
async def test_an_address_is_refused_unless_it_is_listed(host: str) -> None:
    names()
    failed = await failing(way("http://api.test"), request(f"http://{host}/secret"))
    assert failed.ending is Ending.REFUSED
    assert "http.allow" in str(failed)


async def test_without_an_allow_list_nothing_goes_out_and_the_error_says_what_to_write() -> None:
    resolver = names(api_test=[["127.0.0.1"]])
    failed = await failing(way(), request("https://api.test/secret"))
    assert failed.ending is Ending.REFUSED
    assert 'inversion.toml: [http] allow = ["api.test"]' in str(failed)
    assert not resolver.asked


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    async with outside(says(answer(200))) as target:
        redirect = answer(302, b"", Location=f"http://127.0.0.1:{target.port}/")
        async with outside(says(redirect)) as server:
            reply = await asking(way("127.0.0.0/8"), request(f"http://127.0.0.1:{server.port}/"))
            assert (reply.status, reply.ending) == (302, Ending.ANSWERED_3XX)
            assert reply.fields["location"].startswith("http://127.0.0.1")
            assert target.connections == 0


async def test_no_proxy_is_used_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async with outside(says(answer(500))) as proxy, outside(says(answer())) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        reply = await asking(way("127.0.0.1"), request(f"http://127.0.0.1:{server.port}/"))
        assert (reply.status, proxy.connections) == (200, 0)


@pytest.mark.slow
async def test_an_answer_in_drips_is_stopped_by_the_time_limit() -> None:
    async def drip(_: Heard, stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
        while True:
            await stream.send_all(b"a")
            await trio.sleep(0.05)

    async with outside(drip) as server:
        failed = await failing(
            way("127.0.0.1", timeout_s=0.5), request(f"http://127.0.0.1:{server.port}/secret")
        )
        assert failed.ending is Ending.TIMED_OUT
        assert "http.timeout" in str(failed)


@pytest.mark.slow
async def test_a_server_that_takes_nothing_and_says_nothing_is_stopped_by_the_time_limit() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")  # nobody accepts
    port = listeners[0].socket.getsockname()[1]
    big = way("127.0.0.1", timeout_s=0.5)
    failed = await failing(big, request(f"http://127.0.0.1:{port}/", body="a" * (8 << 20)))
    assert failed.ending is Ending.TIMED_OUT
    await listeners[0].aclose()


async def test_an_answer_without_end_is_stopped_at_the_limit() -> None:
    sent = 0

    async def flood(_: Heard, stream: trio.abc.Stream) -> None:
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"a" * 65_536)
            sent += 65_536

    async with outside(flood) as server:
        failed = await failing(way("127.0.0.1"), request(f"http://127.0.0.1:{server.port}/"))
        assert failed.ending is Ending.TOO_LARGE
        assert "limits.body" in str(failed)
        assert sent < 32 << 20  # what the kernel's buffers take


async def test_a_connection_that_breaks_amid_the_answer_is_torn() -> None:
    async with outside(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")) as server:
        failed = await failing(way("127.0.0.1"), request(f"http://127.0.0.1:{server.port}/"))
        assert failed.ending is Ending.TORN


async def test_who_answers_before_it_has_taken_the_body_is_heard() -> None:
    async def early(stream: trio.SocketStream) -> None:
        await stream.receive_some(10)
        await stream.send_all(answer(413, b"too much"))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, early, 0)
        port = listeners[0].socket.getsockname()[1]
        reply = await asking(way("127.0.0.1"), request(f"http://127.0.0.1:{port}/", body="a" * (8 << 20)))
        assert (reply.status, reply.body) == (413, b"too much")
        nursery.cancel_scope.cancel()


async def test_a_name_nobody_knows_and_a_port_nobody_has_are_tried_again() -> None:
    names(api_test=[["127.0.0.1"]])
    async with outside(says(answer())) as server:
        port = server.port
    allowed = way(f"http://api.test:{port}", f"http://nobody.test:{port}", "127.0.0.1")
    for host, words in (("nobody.test", "its name: "), ("api.test", "127.0.0.1: Connection refused")):
        failed = await failing(allowed, request(f"http://{host}:{port}/secret"))
        assert failed.ending is Ending.UNREACHABLE
        assert failed.ending.is_retried
        assert words in str(failed)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that this process trusts, as one does it for an own one."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def tls_for(authority: trustme.CA, *identities: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*identities).configure_cert(context)
    return context


async def test_https_is_for_the_name_in_the_url(authority: trustme.CA) -> None:
    names(api_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    async with outside(says(answer()), tls_for(authority, "api.test")) as server:
        allowed = way(f"api.test:{server.port}", f"other.test:{server.port}", "127.0.0.1")
        assert (await asking(allowed, request(f"https://api.test:{server.port}/"))).status == 200
        failed = await failing(allowed, request(f"https://other.test:{server.port}/secret"))
        assert failed.ending is Ending.UNREACHABLE
        assert "TLS: " in str(failed)
        assert "certificate is not valid for 'other.test'" in str(failed)
        assert len(server.heard) == 1


async def test_https_to_an_address_is_for_that_address(authority: trustme.CA) -> None:
    async with outside(says(answer()), tls_for(authority, "127.0.0.1")) as server:
        assert (await asking(way("127.0.0.1"), request(f"https://127.0.0.1:{server.port}/"))).status == 200


async def test_who_is_vouched_for_by_nobody_we_trust_hears_nothing() -> None:
    async with outside(says(answer()), tls_for(trustme.CA(), "127.0.0.1")) as server:
        failed = await failing(way("127.0.0.1"), request(f"https://127.0.0.1:{server.port}/secret"))
        assert failed.ending is Ending.UNREACHABLE
        assert server.heard == []


async def test_a_server_without_tls_hears_nothing_of_https() -> None:
    async with outside(says(answer())) as server:
        failed = await failing(way("127.0.0.1"), request(f"https://127.0.0.1:{server.port}/secret"))
        assert failed.ending is Ending.UNREACHABLE
        assert server.heard == []
