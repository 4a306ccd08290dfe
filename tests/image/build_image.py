"""Builds the image of the repository's Dockerfile without a container engine: buildah, chroot isolation.

The base is a Debian made by mmdebstrap, so nothing comes from a registry of images. What pip is told on this
machine goes into the build as secrets, as docs/production.md says.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

REPOSITORY = Path(__file__).parents[2]
FUNCTIONS = Path(__file__).parent / "functions"
PROGRAMS = ("mmdebstrap", "buildah", "bwrap", "setpriv", "nsenter")
SUITE = "bookworm"
PACKAGES = ("python3", "python3-venv", "ca-certificates")
#: What says where packages come from; the rest of a pip.conf is taste.
PIP_KEYS = {"index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout", "retries"}


@attrs.frozen
class Image:
    """A built image, mounted."""

    root: Path
    config: Mapping[str, object]  #: as `docker inspect` shows it: User, Env, Entrypoint, Healthcheck...

    @property
    def env(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])  # type: ignore[attr-defined]


class Builder:
    """buildah with a storage of its own, which `close` removes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._driver = "overlay"
        if run("buildah", *self._storage(), "info", check=False).returncode:
            self._driver = "vfs"  # no overlay on this file system: slower, and the same image

    def _storage(self) -> Sequence[str]:
        root, state = self._folder / "storage", self._folder / "state"
        return ["--root", str(root), "--runroot", str(state), "--storage-driver", self._driver]

    def buildah(self, *arguments: str | Path) -> str:
        return run("buildah", *self._storage(), *arguments).stdout.strip()

    def build(self) -> Image:
        base = self._context("base")
        run("mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, base / "root.tar")
        (base / "Dockerfile").write_text("FROM scratch\nADD root.tar /\n")
        self._build("base", base)
        (base / "root.tar").unlink()
        self._build("inversion", REPOSITORY, "--build-arg", "BASE=localhost/base", *self._secrets())
        shop = self._context("shop")
        for file in (*FUNCTIONS.iterdir(), *(REPOSITORY / "runtimes" / "python").glob("*.py")):
            shutil.copy(file, shop)
        (shop / "Dockerfile").write_text("FROM localhost/inversion\nCOPY . /app\n")
        self._build("shop", shop)
        config = json.loads(self.buildah("inspect", "--type", "image", "shop"))["Docker"]["config"]
        return Image(Path(self.buildah("mount", self.buildah("from", "shop"))), config)

    def close(self) -> None:
        for command in ("umount", "rm", "rmi"):
            run("buildah", *self._storage(), command, "--all", check=False)
        run(
            "umount", self._folder / "storage" / self._driver, check=False
        )  # buildah makes it a mount of its own
        shutil.rmtree(self._folder)

    def _context(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True)
        return folder

    def _build(self, tag: str, context: Path, *arguments: str | Path) -> None:
        # The docker format: OCI's knows no HEALTHCHECK.
        chosen = ("--isolation", "chroot", "--format", "docker", "--tag", tag)
        self.buildah("build", *chosen, *arguments, context)

    def _secrets(self) -> Sequence[str]:
        lines, secrets = ["[global]"], []
        settings = pip_settings()
        lines += [f"{key} = {value}" for key, value in settings.items() if key in PIP_KEYS]
        if "cert" in settings:
            lines.append("cert = /run/secrets/ca")
            secrets += ["--secret", f"id=ca,src={settings['cert']}"]
        file = self._folder / "pip.conf"
        file.write_text("\n".join(lines) + "\n")
        return [*secrets, "--secret", f"id=pip,src={file}"]


def pip_settings() -> Mapping[str, str]:
    """What pip is told here, by files and by the environment, which beats them."""
    settings = {}
    listed = run(sys.executable, "-m", "pip", "config", "list").stdout.splitlines()
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in ("global", ":env:"):
            settings[key] = str(ast.literal_eval(value)).replace("\n", " ")
    return settings


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise AssertionError(f"{command}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
