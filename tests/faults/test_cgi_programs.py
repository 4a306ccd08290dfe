"""CGI programs that others wrote, unmodified, behind a real node; and streams that are longer than memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from front_door import Client

from conftest import Served
from fix_command import RunningCommand

GIT_BACKEND = Path("/usr/lib/git-core/git-http-backend")
GITWEB = Path("/usr/lib/cgi-bin/gitweb.cgi")
#: How long the streams are: INVERSION_STREAM_MIB=1024 makes it the gibibyte that was promised; a half minute.
STREAM_MIB = int(os.environ.get("INVERSION_STREAM_MIB", "128"))
STREAM_BYTES = STREAM_MIB << 20
#: What a node may hold more while a stream goes through it: two pieces, and what the allocator keeps of them.
FLAT_BYTES = 32 << 20


def git(folder: Path, *arguments: str) -> str:
    """Without anybody's settings. What it prints."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.org",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=env, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """A folder with one bare repository, project.git, that may be pushed to."""
    folder = tmp_path / "repositories"
    folder.mkdir()
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "project.git")
    git(folder / "project.git", "config", "http.receivepack", "true")
    return folder


@pytest.mark.toolchain("git")
@pytest.mark.skipif(not GIT_BACKEND.exists(), reason="git-http-backend is not there")
async def test_git_clones_and_pushes_through_the_http_backend_of_the_distribution(
    tmp_path: Path, repositories: Path, served: Served
):
    toml = f"""
        [functions.git]
        command = "{GIT_BACKEND}"
        mode = "cgi"
        [functions.git.env]
        GIT_PROJECT_ROOT = "{repositories}"
        GIT_HTTP_EXPORT_ALL = "1"
    """
    with served(toml) as command:
        url = f"{command.url}/v1/http/git/project.git"
        git(tmp_path, "clone", "--quiet", url, "one")
        one = tmp_path / "one"
        (one / "small").write_text("a line\n")
        # More than http.postBuffer: git sends such a push in chunks, and its length is not known.
        (one / "large").write_bytes(os.urandom(5 << 20))
        git(one, "add", "--all")
        git(one, "commit", "--quiet", "--message", "both")
        git(one, "push", "--quiet", "origin", "HEAD:main")
        git(tmp_path, "clone", "--quiet", url, "two")
        (one / "small").write_text("another line\n")
        git(one, "commit", "--quiet", "--all", "--message", "again")
        git(one, "push", "--quiet", "origin", "HEAD:main")
        git(tmp_path / "two", "pull", "--quiet")
        assert git(tmp_path / "two", "log", "--format=%s") == "again\nboth\n"
        assert (tmp_path / "two" / "large").read_bytes() == (one / "large").read_bytes()
        assert (tmp_path / "two" / "small").read_text() == "another line\n"
        with pytest.raises(subprocess.CalledProcessError) as caught:
            git(tmp_path, "clone", "--quiet", f"{command.url}/v1/http/git/none.git", "three")
        assert "not found" in caught.value.stderr


@pytest.mark.toolchain("git", "perl")
@pytest.mark.skipif(not GITWEB.exists(), reason="the package gitweb is not installed")
async def test_gitweb_shows_a_repository_in_pages_that_link_to_each_other(
    tmp_path: Path, repositories: Path, served: Served
):
    git(tmp_path, "clone", "--quiet", str(repositories / "project.git"), "work")
    (tmp_path / "work" / "greeting").write_text("Grüße\n")
    git(tmp_path / "work", "add", "--all")
    git(tmp_path / "work", "commit", "--quiet", "--message", "a greeting")
    git(tmp_path / "work", "push", "--quiet", "origin", "HEAD:main")
    settings = tmp_path / "gitweb.conf"
    settings.write_text(f'$projectroot = "{repositories}"; $feature{{"pathinfo"}}{{"default"}} = [1];\n')
    toml = f"""
        [functions.web]
        command = "{GITWEB}"
        mode = "cgi"
        [functions.web.env]
        GITWEB_CONFIG = "{settings}"
    """
    with served(toml) as command:
        answer = await ask(command, "/v1/http/web")
        assert answer.status == 200
        assert "html" in answer.fields["content-type"]
        assert b"project.git" in answer.body
        summary = await ask(command, "/v1/http/web/project.git")
        assert b"a greeting" in summary.body
        found = re.search(
            rb'href="(/v1/http/web/project\.git/blob/[^"]*)"',
            (await ask(command, "/v1/http/web/project.git/tree/HEAD")).body,
        )
        assert found is not None, "a page links to the next by SCRIPT_NAME"
        assert "Grüße".encode() in (await ask(command, found[1].decode())).body
        raw = await ask(command, "/v1/http/web/project.git/blob_plain/HEAD:/greeting")
        assert raw.body == "Grüße\n".encode()
        assert (await ask(command, "/v1/http/web?p=none.git")).status == 404


async def ask(command: RunningCommand, path: str):
    with trio.fail_after(30):
        client = await command.connect(command.url)
        async with client.stream:
            await client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            return await client.answer()


def rss_bytes(pid: int, what: str = "VmRSS") -> int:
    found = re.search(rf"(?m)^{what}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


STREAMS = f"""
[functions.down]
command = ["sh", "-c", "echo 'Content-Type: a/b'; echo; exec head -c {STREAM_BYTES} /dev/zero"]
mode = "cgi"

[functions.up]
command = ["sh", "-c", "echo 'Content-Type: text/plain'; echo; exec wc -c"]
mode = "cgi"

[functions.hello]
command = ["sh", "-c", "echo 'Content-Type: text/plain'; echo; echo hello"]
mode = "cgi"
"""


@pytest.mark.skipif(shutil.which("head") is None, reason="needs head")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_stream_goes_up_and_down_in_flat_memory(chunked: bool, served: Served):
    with served(STREAMS) as command, trio.fail_after(110):
        pid = command.process.pid
        assert (await ask(command, "/v1/http/hello")).body == b"hello\n"
        before = rss_bytes(pid)
        client = await command.connect(command.url)
        async with client.stream:
            assert await go_down(client) > STREAM_BYTES
        down = rss_bytes(pid, "VmHWM")
        client = await command.connect(command.url)
        async with client.stream:
            assert await go_up(client, chunked=chunked) == STREAM_BYTES
        after = rss_bytes(pid, "VmHWM")
        print(f"RSS in MiB: {before >> 20} before, at most {down >> 20} down, {after >> 20} up as well")
        assert after - before < FLAT_BYTES


async def go_down(client: Client) -> int:
    await client.send(b"GET /v1/http/down HTTP/1.1\r\nHost: localhost\r\n\r\n")
    came, last = 0, b""
    while not last.endswith(b"\r\n0\r\n\r\n"):
        data = await client.stream.receive_some(1 << 20)
        assert data, "it was cut"
        came += len(data)
        last = (last + data)[-8:] if len(data) < 8 else data[-8:]
    return came


async def go_up(client: Client, *, chunked: bool) -> int:
    piece = bytes(1 << 20)
    if chunked:
        delimiter, piece, end = b"Transfer-Encoding: chunked", b"100000\r\n%b\r\n" % piece, b"0\r\n\r\n"
    else:
        delimiter, end = b"Content-Length: %d" % STREAM_BYTES, b""
    await client.send(b"PUT /v1/http/up HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % delimiter)
    for _ in range(STREAM_MIB):
        await client.stream.send_all(piece)
    await client.send(end)
    return int((await client.answer()).body)
