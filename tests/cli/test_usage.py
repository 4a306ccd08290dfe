"""What the command line takes and refuses, before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from inversion import __version__, app, privacy
from inversion.cli import inversion
from inversion.config import Config, Mode
from inversion.opening import Options, StartError

BUILT = [
    "check",
    "dev",
    "doctor",
    "health",
    "init",
    "invoke",
    "messages",
    "migrate",
    "send",
    "serve",
    "state",
]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one function, with nothing of the real environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INVERSION_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("PORT", raising=False)
    (tmp_path / "inversion.toml").write_text('[functions.cat]\ncommand = "cat"\nmode = "exec"\n')
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, Options]]:
    """What app.serve was called with; nothing is started."""
    calls: list[tuple[Config, Options]] = []

    async def serve(config: Config, options: Options, on_started: object) -> bool:
        calls.append((config, options))
        return True

    monkeypatch.setattr(app, "serve", serve, raising=False)
    monkeypatch.setattr(privacy, "keep_memory_private", lambda: None)  # it is the tests' own process
    return calls


def run(*arguments: str) -> Result:
    return CliRunner().invoke(inversion, arguments)


def test_help_lists_what_is_built_and_nothing_else() -> None:
    assert sorted(name for name, command in inversion.commands.items() if not command.hidden) == BUILT
    assert run("--help").exit_code == 0


@pytest.mark.parametrize("command", ["logs", "manifests", "deploy"])
def test_commands_of_later_releases_do_not_exist(command: str) -> None:
    result = run(command)
    assert result.exit_code == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["invoke", "x", "--dry-run"],
        ["state", "set", "x", "k"],
        ["dev", "--nodes", "0"],
        ["dev", "--port", "70000"],
        ["dev", ".", "--config", "inversion.toml"],
        ["dev", ".", "--mode", "exec"],
        ["dev", "--mode", "cgi"],
        ["invoke"],
        ["state", "get", "x"],
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["dev", "serve"])
def test_a_wrong_config_is_wrong_usage_with_all_its_faults(project: Path, command: str) -> None:
    (project / "inversion.toml").write_text("[functions.a]\ncomand = 'a'\n")
    result = run(command, "--database-url", "postgres://nowhere")
    assert result.exit_code == 2
    assert "functions.a.command is missing" in result.stderr
    assert "did you mean command?" in result.stderr


def test_serve_without_a_database_says_what_to_do() -> None:
    result = run("serve")
    assert result.exit_code == 2
    assert "--database-url or DATABASE_URL" in result.stderr


def test_dev_has_the_documented_defaults(served: list[tuple[Config, Options]], project: Path) -> None:
    assert run("dev").exit_code == 0
    ((config, options),) = served
    assert config.folder == project
    assert options.reload is not None
    assert (options.reload.file, options.reload.read()) == (project / "inversion.toml", config)
    assert attrs.evolve(options, reload=None) == Options(dev=True)
    assert (options.host, options.port, options.admin_port) == ("127.0.0.1", 8080, 9080)


def test_a_database_url_may_come_from_a_file_and_is_never_shown(
    served: list[tuple[Config, Options]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "url").write_text("postgres://file\n")
    monkeypatch.setenv("INVERSION_DATABASE_URL_FILE", str(project / "url"))
    assert run("serve").exit_code == 0
    monkeypatch.setenv("DATABASE_URL", "postgres://env")
    assert run("serve").exit_code == 0
    assert [options.database_url for _, options in served] == ["postgres://file", "postgres://env"]
    assert "postgres://" not in run("serve", "--help").stdout


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_secret_s_file_that_cannot_be_read_is_named(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("INVERSION_DATABASE_URL_FILE", str(project / "absent"))
    result = run(command)
    assert result.exit_code == 2
    assert "INVERSION_DATABASE_URL_FILE" in result.stderr
    assert "No such file" in result.stderr


def test_flags_beat_environment(
    served: list[tuple[Config, Options]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "INVERSION_HOST": "0.0.0.0",
        "PORT": "1",
        "INVERSION_PORT": "2",
        "INVERSION_ADMIN_HOST": "::1",
        "INVERSION_ADMIN_PORT": "3",
        "DATABASE_URL": "postgres://env",
        "INVERSION_ADMIN_TOKEN": "hush",
    }.items():
        monkeypatch.setenv(name, value)
    assert run("serve").exit_code == 0
    assert run("serve", "--port", "4", "--database-url", "postgres://flag", "--migrate").exit_code == 0
    (_, of_environment), (_, of_flags) = served
    assert of_environment == Options("0.0.0.0", 2, "::1", 3, "postgres://env", False, False, "hush")
    assert (of_flags.port, of_flags.database_url, of_flags.migrate) == (4, "postgres://flag", True)


def test_port_alone_is_heard(served: list[tuple[Config, Options]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5000")
    run("dev")
    assert served[0][1].port == 5000


def test_the_config_may_be_named_by_the_environment(
    served: list[tuple[Config, Options]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "sub").mkdir()
    (project / "sub" / "other.toml").write_text('[functions.b]\ncommand = "b"\n')
    monkeypatch.setenv("INVERSION_CONFIG", "sub/other.toml")
    run("dev")
    assert list(served[0][0].functions) == ["b"]


def test_dev_runs_one_file(served: list[tuple[Config, Options]], project: Path) -> None:
    (project / "words.sh").write_text("wc -w\n")
    assert run("dev", "words.sh").exit_code == 0
    assert run("dev", "words.sh", "--mode", "lines").exit_code == 0
    assert [config.functions["words"].mode for config, _ in served] == [Mode.EXEC, Mode.LINES]


def test_what_keeps_the_node_from_starting_is_exit_3(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(config: Config, options: Options, on_started: object) -> None:
        raise StartError("port 8080 is taken: choose another with --port")

    monkeypatch.setattr(app, "serve", serve, raising=False)
    monkeypatch.setattr(privacy, "keep_memory_private", lambda: None)  # it is the tests' own process
    result = run("dev")
    assert result.exit_code == 3
    assert "inversion: port 8080 is taken" in result.stderr


def test_migrate_prints_sql_without_a_database() -> None:
    result = run("migrate", "--print")
    assert result.exit_code == 0
    assert "inversion" in result.stdout


def test_migrate_needs_to_know_which_database() -> None:
    assert run("migrate").exit_code == 2


def test_migrate_without_a_database_that_answers_is_exit_3() -> None:
    result = run("migrate", "--database-url", "postgres://127.0.0.1:1/x")
    assert result.exit_code == 3
    assert "the database does not let us in" in result.stderr


def test_python_m_inversion_is_the_same_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "inversion", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert result.stdout == f"inversion, version {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, inversion.cli; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.split()
    assert not {"trio", "psycopg", "rich", "structlog", "prometheus_client"} & set(loaded)
