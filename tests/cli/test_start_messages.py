"""What a host may lack: `dev` ends with 3 and one sentence that names the cause and the remedy."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "inversion", "dev", "--port", "0", "--admin-port", "0"]
TOML = '[functions.f]\ncommand = ["cat"]\nmode = "exec"\nstate = false\n'
START_TIMEOUT_S = 45.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inversion.toml").write_text(TOML)
    return tmp_path


def dev(folder: Path, *arguments: str, before: str = "", **environ: str) -> str:
    """Start it where it cannot start; what it complained. `before`: a line of shell that comes first."""
    inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    ended = subprocess.run(
        ["sh", "-c", f'{before}\nexec "$@"', "sh", *COMMAND, *arguments],
        cwd=folder,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 3, ended
    assert "Traceback" not in ended.stderr
    assert not re.search(r"\[Errno", ended.stderr)
    (complaint,) = [line for line in ended.stderr.splitlines() if line.startswith("inversion: ")]
    return complaint


def test_too_few_files(project: Path) -> None:
    assert "only 40 files may be opened: raise `ulimit -n`" in dev(project, before="ulimit -n 40")


def test_no_postgresql_where_the_environment_says(project: Path) -> None:
    said = dev(project, INVERSION_PG_BIN="/nowhere")
    assert "INVERSION_PG_BIN: /nowhere has no executable initdb. Set it" in said


def test_a_postgresql_that_is_too_old(project: Path) -> None:
    old = project / "old"
    old.mkdir()
    for name in ("initdb", "postgres"):
        (old / name).write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.3'\n")
        (old / name).chmod(0o755)
    said = dev(project, INVERSION_PG_BIN=str(old))
    assert "has PostgreSQL 14, at least 15 is needed" in said


def test_data_of_another_major_version(project: Path) -> None:
    (project / ".inversion" / "postgres").mkdir(parents=True)
    (project / ".inversion" / "postgres" / "PG_VERSION").write_text("11\n")
    said = dev(project)
    assert "was made by PostgreSQL 11" in said
    assert "set INVERSION_PG_BIN" in said


def test_a_data_folder_that_is_none(project: Path) -> None:
    (project / ".inversion" / "postgres").mkdir(parents=True)
    (project / ".inversion" / "postgres" / "notes.txt").write_text("mine")
    assert "holds something that is no PostgreSQL cluster: move it away" in dev(project)


def test_something_else_in_the_place_of_the_folder(project: Path) -> None:
    (project / ".inversion").write_text("mine")
    said = dev(project)
    assert "(File exists)" in said
    assert "move away what is in its place" in said


def test_a_host_that_does_not_exist(project: Path) -> None:
    said = dev(project, "--host", "no.such.host.invalid")
    assert "cannot listen on no.such.host.invalid" in said
    assert "correct the host" in said


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://me:hush@host/x", "postgresql://me:hush@host/x?colour=red"]
)
def test_a_database_url_that_is_none(project: Path, url: str) -> None:
    said = dev(project, "--database-url", url)
    assert "the database URL cannot be read" in said
    assert "Write postgresql://USER@HOST/DATABASE" in said
    assert "hush" not in said


def test_a_folder_that_belongs_to_somebody_else() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    project = Path("/var/tmp") / f"inversion-test-{os.getpid()}"
    project.mkdir(mode=0o755)
    (project / "inversion.toml").write_text(TOML)
    # The same node, its modules read before it becomes somebody who may not read them.
    program = "import os, sys, inversion.app, inversion.embedded, inversion.cli.serving, inversion.cli;" + (
        "import inversion.reload.reloader, encodings.idna;"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534);"
        "sys.argv[:] = ['inversion', 'dev', '--port', '0', '--admin-port', '0']; inversion.cli.main()"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=project,
            env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
    finally:
        shutil.rmtree(project)
    assert ended.returncode == 3, ended
    assert ".inversion cannot be used (Permission denied)" in ended.stderr
    assert "give the folder to this user" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 20 MB, less than a new cluster takes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    (disk / "inversion.toml").write_text(TOML)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_too_small_for_a_database(disk: Path) -> None:
    said = dev(disk)
    assert f"the disk of {disk}/.inversion is full: make room there" in said
    assert "Check free disk space" in said or "No space left" in said


def test_a_folder_on_a_read_only_disk(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert "(Read-only file system)" in dev(disk)


def test_a_program_on_a_disk_that_runs_none(disk: Path) -> None:
    (disk / "f.sh").write_text("#!/bin/sh\ncat\n")
    (disk / "f.sh").chmod(0o755)
    (disk / "inversion.toml").write_text("[functions.f]\ncommand = ['./f.sh']\n")
    subprocess.run(["mount", "-o", "remount,noexec", str(disk)], check=True)
    ended = subprocess.run(
        [sys.executable, "-m", "inversion", "doctor", "--json"], cwd=disk, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "is mounted noexec: name its interpreter" in ended.stdout


def test_a_host_without_proc(project: Path) -> None:
    hide = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/proc"]
    if os.geteuid() != 0 or subprocess.run(hide, capture_output=True, check=False).returncode != 0:
        pytest.skip("/proc cannot be hidden here")
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh", *COMMAND],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )
    assert (ended.returncode, "there is no /proc here: mount it" in ended.stderr) == (3, True), ended


@pytest.mark.postgres
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_standard_files_keep_nothing_from_running(
    project: Path, database_url: str, closed: str
) -> None:
    admin = project / ".inversion" / "admin.sock"
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "--database-url", database_url], cwd=project
    )
    try:
        for _ in range(450):
            health = subprocess.run(
                [sys.executable, "-m", "inversion", "invoke", "f", "-d", "5"],
                cwd=project,
                capture_output=True,
                text=True,
                timeout=START_TIMEOUT_S,
                check=False,
            )
            if admin.exists() and health.returncode == 0:
                break
            assert process.poll() is None, "it has ended"
        assert health.stdout == "5", health
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
