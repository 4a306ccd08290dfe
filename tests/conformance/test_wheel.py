"""From the built wheel, with no checkout near: the cases and shims are in it, `check` and `init` run."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_S = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel and what it needs, and no checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(REPOSITORY)]
    subprocess.run(build, check=True, timeout=WAIT_S, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(packages)
    # Its requirements from ours: a folder that a .pth names has its own .pth files ignored, the editable
    # install of the checkout among them.
    (packages / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin" / "python"


def run(python: Path, folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "inversion", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        check=False,
        text=True,
        timeout=WAIT_S,
    )


def test_check_runs_from_the_wheel(python: Path, tmp_path: Path) -> None:
    where = "import inversion, inversion.shipped as s; print(inversion.__file__); print(s.runtimes())"
    said = subprocess.run(
        [str(python), "-c", where], capture_output=True, check=True, text=True, cwd=tmp_path
    )
    package, runtimes = said.stdout.splitlines()
    assert str(REPOSITORY) not in package + runtimes
    program = [sys.executable, f"{runtimes}/python/interpreter.py"]
    done = run(python, tmp_path, ["check", "--interpreter", "--only", "state/*", *program])
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "ok    state" in done.stdout


def test_what_init_makes_from_the_wheel_passes_the_check(python: Path, tmp_path: Path) -> None:
    made = run(python, tmp_path, ["init", "--lang", "python", "hits"])
    assert made.returncode == 0, made.stderr
    (program,) = [file for file in tmp_path.rglob("hits*.py") if "test" not in file.name]
    done = run(python, tmp_path, ["check", str(program)])
    assert done.returncode == 0, done.stdout + done.stderr
