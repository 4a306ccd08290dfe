"""A folder that cannot be written: `serve` does without the admin socket, the embedded database cannot."""

import errno

import pytest
import trio

from fix_command import for_serve
from inversion import opening
from inversion.cli.door import Door
from inversion.http.server import CannotListen
from inversion.opening import StartError


@pytest.fixture
def read_only(monkeypatch):
    """As on a read-only root; tests may run as root, to whom no mode says no."""

    def refuse(path):
        raise CannotListen(errno.EROFS, f"cannot listen on {path}: Read-only file system")

    monkeypatch.setattr(opening, "open_unix", refuse)


@pytest.mark.usefixtures("read_only")
async def test_a_node_without_its_socket_is_asked_over_tcp(start_node, counter_toml, tmp_path):
    async with start_node(for_serve(counter_toml), dev=False) as node:
        assert node.started.socket_path is None
        assert (await node.call("counter/alice/add", 2)).body == b"2"
        door = Door.find(node.started.admin_url, None, tmp_path)
        reply = await trio.to_thread.run_sync(lambda: door.request("GET", "/readyz", timeout_s=20))
        assert reply.status == 200
        refused = await trio.to_thread.run_sync(
            lambda: door.request("POST", "/v1/call/counter/alice/add", b"1", timeout_s=20)
        )
        assert refused.status == 401  # no token: TCP is not trusted


@pytest.mark.usefixtures("read_only")
async def test_the_embedded_database_needs_its_folder(start_node, counter_toml):
    with pytest.RaisesGroup(pytest.RaisesExc(StartError, match=r"admin\.sock.*the embedded database")):
        async with start_node(counter_toml, database_url=None):
            pytest.fail("it started")


async def test_a_node_has_a_socket_where_it_can(start_node, counter_toml, tmp_path):
    async with start_node(counter_toml) as node:
        assert node.started.socket_path == tmp_path / ".inversion" / "admin.sock"
        assert Door.find(None, None, tmp_path).socket_path == node.started.socket_path
