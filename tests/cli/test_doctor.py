"""`inversion doctor`: what holds on this host is said, and what does not has a remedy that helps."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from inversion.config import Limits
from inversion.doctor import host
from inversion.doctor.finding import Finding, Verdict

pytestmark = pytest.mark.slow

PYTHON = f"command = [{json.dumps(sys.executable)}, 'f.py']\n"
HELLO = 'print(\'{"hello":{"protocol":1,"runtime":"mine"}}\', flush=True)\ninput()\n'


COMMAND = [sys.executable, "-m", "inversion", "doctor", "--json", "--port", "0", "--admin-port", "0"]


def doctor(
    folder: Path, *arguments: str, before: str = "", **environ: str
) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and the findings by name. `before`: a line of shell that comes first."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "PORT")}
    ended = subprocess.run(
        ["sh", "-c", f'{before}\nexec "$@"', "sh", *COMMAND, *arguments],
        cwd=folder,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in (0, 1), ended.stderr
    said = json.loads(ended.stdout)
    assert said["ok"] is (ended.returncode == 0)
    for finding in said["findings"]:
        assert (finding["remedy"] is None) is (finding["verdict"] == "ok"), finding
    return ended.returncode, {finding["name"]: finding for finding in said["findings"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "f.py").write_text(HELLO)
    (tmp_path / "inversion.toml").write_text(f"[functions.f]\n{PYTHON}")
    return tmp_path


def test_where_all_is_well_it_ends_with_0(project: Path) -> None:
    code, found = doctor(project)
    assert code == 0
    assert {finding["verdict"] for finding in found.values()} <= {"ok", "warn"}
    assert found["function f"]["sentence"].startswith("mine, any handler")
    assert found["postgresql"]["verdict"] == "ok"
    assert not (project / ".inversion").exists()


def test_schedules_are_said_with_when_they_are_due_and_what_they_lack(project: Path) -> None:
    declared = '[{"name":"own","schedule":"0 4 * * *","handler":"x"},{"name":"bad","schedule":"@daily"}]'
    hello = f'{{"hello":{{"protocol":1,"handlers":{{"call":{{}}}},"cron":{declared}}}}}'
    (project / "f.py").write_text(f"print({hello!r}, flush=True)\ninput()\n")
    cron = 'cron.yearly = { schedule = "0 0 1 1 *", zone = "Asia/Tokyo" }\n'
    (project / "inversion.toml").write_text(f"[functions.f]\n{PYTHON}{cron}")
    code, found = doctor(project)
    assert code == 0
    assert found["cron f/yearly"]["sentence"].startswith("0 0 1 1 *, Asia/Tokyo; due next 20")
    assert found["cron f/yearly"]["sentence"].endswith("-12-31T15:00:00Z")
    assert found["cron f/own"]["sentence"] == "the function has no handler 'x'; it has: call"
    assert found["cron f"]["sentence"].startswith("its hello: cron.bad.schedule must be five fields")


def test_for_people_each_finding_is_a_line(project: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "inversion", "doctor", ".", "--port", "0", "--admin-port", "0"],
        cwd=project,
        env={**os.environ, "INVERSION_PG_BIN": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "  ok    function f" in ended.stdout
    assert "  fail  postgresql" in ended.stdout
    assert "-> INVERSION_PG_BIN: /nowhere has no executable initdb. Set it to" in ended.stdout


def test_a_function_that_does_not_run_fails_with_its_reason(project: Path) -> None:
    (project / "inversion.toml").write_text(
        f"[functions.f]\n{PYTHON}[functions.gone]\ncommand = 'no-such-program'\n"
        "[functions.silent]\ncommand = 'cat'\nhello = 'none'\n"
    )
    (project / "f.py").write_text("VERSION = = 2\n")
    code, found = doctor(project)
    assert code == 1
    assert "SyntaxError" in found["function f"]["sentence"]
    assert "does not exist on the PATH" in found["function gone"]["sentence"]
    assert found["function silent"]["verdict"] == "ok"


def test_a_fault_in_the_config_is_a_finding(project: Path) -> None:
    (project / "inversion.toml").write_text("[functions.f]\ncomand = 'cat'\n")
    code, found = doctor(project)
    assert code == 1
    assert "did you mean command?" in found["functions"]["sentence"]


def test_without_a_config_the_host_is_looked_at_all_the_same(tmp_path: Path) -> None:
    code, found = doctor(tmp_path)
    assert (code, found["functions"]["verdict"]) == (0, "warn")
    code, found = doctor(tmp_path, "elsewhere")
    assert (code, found["functions"]["verdict"]) == (1, "fail")


def test_one_file_is_tried_like_dev_would_run_it(project: Path) -> None:
    code, found = doctor(project, "f.py")
    assert (code, found["function f"]["verdict"]) == (0, "ok")


def test_a_port_that_is_taken_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, found = doctor(project, "--port", str(port))
    assert code == 1
    assert "is taken by another program" in found[f"port {port}"]["sentence"]


def test_too_few_files_are_said(project: Path) -> None:
    code, found = doctor(project, before="ulimit -n 256")
    assert (code, found["open files"]["verdict"]) == (0, "warn")
    assert "10512" in found["open files"]["remedy"]


def test_data_of_another_major_version_fails(project: Path) -> None:
    (project / ".inversion" / "postgres").mkdir(parents=True)
    (project / ".inversion" / "postgres" / "PG_VERSION").write_text("9.6\n")
    code, found = doctor(project)
    assert code == 1
    assert "PostgreSQL 9.6" in found["data folder"]["remedy"]


def of_host(folder: Path, *, embedded: bool) -> dict[str, Finding]:
    return {finding.name: finding for finding in host.examine(folder, Limits(), {}, embedded=embedded)}


def test_a_folder_that_cannot_be_written_matters_to_the_embedded_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert of_host(tmp_path, embedded=True)["folder"].verdict is Verdict.FAIL
    assert of_host(tmp_path, embedded=False)["folder"].verdict is Verdict.WARN


def test_a_disk_that_is_nearly_full_matters_to_the_embedded_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 10 << 20}))
    assert of_host(tmp_path, embedded=True)["disk"].verdict is Verdict.FAIL
    assert of_host(tmp_path, embedded=False)["disk"].verdict is Verdict.OK


# -- a database by its URL -----------------------------------------------------------------------------------


def test_a_database_that_is_ready_is_said_to_be(project: Path, database_url: str) -> None:
    code, found = doctor(project, DATABASE_URL=database_url)
    assert code == 0
    assert found["schema"]["sentence"] == "is up to date"
    assert "postgresql" not in found


@pytest.mark.parametrize(("needs", "code"), [(1, 0), (9999, 1)])
def test_a_newer_schema_is_named_and_fails_only_if_it_cannot_be_served(
    project: Path, database_url: str, needs: int, code: int
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO inversion.migration (number, name, checksum, needs) VALUES (9999, 'x', 'y', %s)",
            [needs],
        )
    ended, found = doctor(project, DATABASE_URL=database_url)
    assert ended == code
    assert " x" in found["schema"]["sentence"]
    if code:
        assert "run a newer one" in found["schema"]["sentence"]


def test_a_database_without_the_schema_fails(project: Path, empty_database_url: str) -> None:
    code, found = doctor(project, "--database-url", empty_database_url)
    assert code == 1
    assert "inversion migrate" in found["schema"]["remedy"]


def test_a_database_that_is_not_there_fails_and_keeps_its_password(project: Path) -> None:
    code, found = doctor(project, "--database-url", "postgresql://me:hush@127.0.0.1:1/x")
    assert code == 1
    assert "Connection refused" in found["database"]["sentence"]
    assert "hush" not in json.dumps(found)


def test_the_sql_of_a_remedy_helps(project: Path, database_url: str) -> None:
    role = f"weak {os.getpid()}"
    weak = make_conninfo(database_url, user=role)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(role)))
        admin.execute(SQL("ALTER ROLE {} SET synchronous_commit = off").format(Identifier(role)))
        try:
            admin.execute(SQL("GRANT USAGE ON SCHEMA inversion TO {}").format(Identifier(role)))
            admin.execute(SQL("GRANT SELECT ON inversion.migration TO {}").format(Identifier(role)))
            code, found = doctor(project, "--database-url", weak)
            assert (code, found["durability"]["verdict"], found["schema"]["verdict"]) == (1, "warn", "fail")
            for name in ("durability", "schema"):
                admin.execute(found[name]["remedy"].encode())
            code, found = doctor(project, "--database-url", weak)
            assert (code, found["durability"]["verdict"], found["schema"]["verdict"]) == (0, "ok", "ok")
        finally:
            admin.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))
