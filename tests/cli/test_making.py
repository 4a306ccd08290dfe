"""`inversion init`: a function of each language is made, built, tested and called."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from inversion import shipped, templates
from inversion.cli import inversion

LANGUAGES = templates.languages()
#: A release build of Rust on two busy cores.
BUILD_S = 300


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(inversion, ["init", *arguments])


def functions(folder: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((folder / "inversion.toml").read_text())["functions"]


def in_each_language(test):
    marked = [
        pytest.param(each, id=name, marks=pytest.mark.toolchain(*each.needs))
        for name, each in LANGUAGES.items()
    ]
    return pytest.mark.parametrize("language", marked)(test)


def test_every_folder_with_a_shim_is_a_language() -> None:
    with_a_shim = {shim.parent.name for shim in shipped.runtimes().glob("*/shim.*")}
    assert with_a_shim <= set(LANGUAGES)


def test_without_a_project_the_folder_is_one(here: Path) -> None:
    result = init("hits")
    assert result.exit_code == 0
    assert "cd hits && inversion dev" in result.output
    assert functions(here / "hits") == {"hits": {"command": ["python3", "hits.py"]}}


def test_in_a_project_it_is_one_function_more(here: Path) -> None:
    (here / "inversion.toml").write_text("# mine\n[functions.cat]\ncommand = 'cat'\nmode = 'exec'\n")
    assert init("hits", "--lang", "node").exit_code == 0
    assert functions(here)["hits"] == {"command": ["node", "hits/hits.js"]}
    assert (here / "inversion.toml").read_text().startswith("# mine\n[functions.cat]\n")
    assert not (here / "hits" / "inversion.toml").exists()


def test_a_name_with_a_hyphen_is_a_file_that_can_be_imported(here: Path) -> None:
    assert init("my-hits").exit_code == 0
    assert {file.name for file in (here / "my-hits").iterdir()} >= {"my_hits.py", "test_my_hits.py"}
    assert "counter" not in (here / "my-hits" / "test_my_hits.py").read_text()


def test_what_is_there_is_not_touched(here: Path) -> None:
    (here / "hits").mkdir()
    result = init("hits")
    assert result.exit_code == 2
    assert "hits is here already; nothing was changed" in result.output
    assert list((here / "hits").iterdir()) == []


def test_a_function_of_that_name_is_not_made_twice(here: Path) -> None:
    text = "[functions.hits]\ncommand = 'cat'\nmode = 'exec'\n"
    (here / "inversion.toml").write_text(text)
    result = init("hits")
    assert result.exit_code == 2
    assert "has a function hits already" in result.output
    assert (here / "inversion.toml").read_text() == text
    assert not (here / "hits").exists()


def test_a_file_that_cannot_be_continued_is_left_and_the_lines_are_shown(here: Path) -> None:
    text = "functions = { cat = { command = 'cat', mode = 'exec' } }\n"
    (here / "inversion.toml").write_text(text)
    result = init("hits")
    assert result.exit_code == 2
    assert "[functions.hits]" in result.output
    assert (here / "inversion.toml").read_text() == text
    assert not (here / "hits").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hits", "--lang", "cobol"], "no language 'cobol'; there are"),
        (["Hits"], "is no function's name"),
        (["../hits"], "is no function's name"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], said: str) -> None:
    result = init(*arguments)
    assert result.exit_code == 2
    assert said in result.output


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """One function of each language, made and built once. Readable for the functions' own accounts."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="inversion-test-"))
    folder.chmod(0o755)
    (folder / "inversion.toml").write_text("")
    yield folder
    shutil.rmtree(folder)


def made_in(project: Path, language: str) -> Path:
    """The function `my-...` of that language."""
    folder = project / f"my-{language}"
    if not folder.exists():
        result = init(folder.name, "--lang", language, "--json")
        assert result.exit_code == 0, result.output
    return folder


@in_each_language
@pytest.mark.timeout(BUILD_S)
def test_what_was_made_passes_its_own_test(
    language: templates.Language, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    folder = made_in(project, language.name)
    if (line := templates.made(language, folder.name, folder.name).test) is not None:
        done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.postgres
@pytest.mark.timeout(BUILD_S)
async def test_a_function_of_each_language_answers_at_once(start_command, project, monkeypatch) -> None:
    monkeypatch.chdir(project)
    here = [name for name, each in LANGUAGES.items() if all(map(shutil.which, each.needs))]
    for name in here:
        made_in(project, name)
    with start_command("dev", project, "--json") as node:
        for name in here:
            for expected in (b"2", b"4"):
                answer = await node.call(f"my-{name}/tea/add", 2)
                assert (answer.status, answer.body) == (200, expected), name
