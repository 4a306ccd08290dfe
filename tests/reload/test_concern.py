"""Which files matter, and whom a change concerns."""

from pathlib import Path

import attrs
import pytest

from inversion.config import Config, Function, Limits
from inversion.reload.concern import (
    Restless,
    candidates,
    concerned,
    difference,
    is_code,
    is_entered,
    own_folder,
)

ROOT = Path("/app")


def function(name: str, *command: str) -> Function:
    return Function(name=name, command=command, folder=ROOT)


def files(*names: str) -> set[Path]:
    return {Path("/app") / name for name in names}


def concerns(changed: str, *functions: Function, there: set[Path]) -> set[str]:
    named = {each.name: each for each in functions}
    return set(concerned(named, [ROOT / changed], there | {ROOT / changed}))


@pytest.mark.parametrize(
    "name",
    [".counter.py.swp", "counter.py~", ".#counter.py", "#counter.py#", "4913", "x.pyc", "a.log", "n.db-wal"],
)
def test_what_editors_and_programs_leave_beside_the_code_is_no_code(name: str) -> None:
    assert not is_code(name)


@pytest.mark.parametrize("name", ["counter.py", ".env", "Makefile", "package-lock.json", "logic", "a.db.py"])
def test_everything_else_may_be_code(name: str) -> None:
    assert is_code(name)


def test_folders_that_tools_make_are_not_entered() -> None:
    for name in (".inversion", ".git", ".venv", "__pycache__", "node_modules"):
        assert not is_entered(name, ())
    assert not is_entered("environment", {"pyvenv.cfg", "bin"})
    assert not is_entered("target", {"CACHEDIR.TAG"})
    assert is_entered("lib", {"a.py"})


def test_a_command_names_its_arguments_and_a_program_with_a_path() -> None:
    assert candidates(function("f", "python3", "-u", "f.py")) == files("-u", "f.py")
    assert candidates(function("f", "./f", "../x.json")) == {Path("/app/f"), Path("/x.json")}


def test_a_functions_own_folder_holds_the_files_that_its_command_names() -> None:
    there = files("python/cart.py", "node/cart.js", "x/a/1", "x/b/2")
    assert own_folder(function("f", "python3", "python/cart.py"), there) == ROOT / "python"
    assert own_folder(function("f", "./x/a/1", "x/b/2"), there) == ROOT / "x"
    assert own_folder(function("f", "jq", ".a"), there) == ROOT
    assert own_folder(function("f", "python3", "/elsewhere/f.py"), there | {Path("/elsewhere/f.py")}) == ROOT


def test_a_change_concerns_the_functions_whose_folder_holds_the_file() -> None:
    python = function("python", "python3", "python/cart.py")
    node = function("node", "node", "node/cart.js")
    there = files("python/cart.py", "node/cart.js")
    assert concerns("python/shim.py", python, node, there=there) == {"python"}
    assert concerns("node/lib/deep.js", python, node, there=there) == {"node"}


def test_what_lies_beside_all_own_folders_concerns_every_function() -> None:
    python = function("python", "python3", "python/cart.py")
    plain = function("plain", "python3", "plain.py")
    there = files("python/cart.py", "plain.py")
    assert concerns("shared/prices.json", python, plain, there=there) == {"python", "plain"}
    assert concerns("python/cart.py", python, plain, there=there) == {"python", "plain"}
    assert concerns("plain.py", python, plain, there=there) == {"plain"}


def test_a_file_outside_concerns_only_who_names_it() -> None:
    outside = function("outside", "python3", "/elsewhere/f.py")
    other = function("other", "python3", "other.py")
    assert concerns("/elsewhere/f.py", outside, other, there=files("other.py")) == {"outside"}


def test_a_config_change_renews_what_differs_and_removes_what_is_gone() -> None:
    a, b, c = (function(name, "cat") for name in "abc")
    old = Config(functions={"a": a, "b": b}, folder=ROOT)
    new = Config(functions={"a": attrs.evolve(a, timeout_s=1.0), "c": c}, folder=ROOT)
    found = difference(old, new, old)
    assert (found.renewed, found.removed, found.needs_restart) == (["a", "c"], ["b"], [])
    assert difference(old, old, old).renewed == []


def test_limits_need_a_restart_and_are_named_as_in_the_file() -> None:
    old = Config(folder=ROOT)
    new = Config(folder=ROOT, limits=Limits(body_bytes=5, connections=7))
    assert difference(old, new, old).needs_restart == ["limits.body", "limits.connections"]
    assert difference(new, old, old).needs_restart == []


def test_a_file_that_changes_again_and_again_is_data() -> None:
    restless = Restless()
    data, code = ROOT / "visits.txt", ROOT / "visits.py"
    assert all(restless.saw(code, float(60 * n)) for n in range(100))
    seen = [restless.saw(data, float(n)) for n in range(12)]
    assert seen == [True] * 11 + [False]
    assert restless.left_alone == {data}
