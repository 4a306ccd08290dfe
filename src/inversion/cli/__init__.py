"""The `inversion` command. Exit codes: 0 done, 1 the answer was an error, 2 wrong usage, 3 no server or
no database. What a command needs is imported when it runs, so that `--help` and completion are quick.
"""

from __future__ import annotations

import click

from inversion import __version__, open_files
from inversion.cli.asking import health, invoke, send, state
from inversion.cli.checking import check
from inversion.cli.examining import doctor
from inversion.cli.letters import messages
from inversion.cli.making import init
from inversion.cli.migrating import migrate
from inversion.cli.noding import node
from inversion.cli.serving import dev, serve


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog='Completion: eval "$(_INVERSION_COMPLETE=bash_source inversion)" (also zsh_source, fish_source).',
)
@click.version_option(__version__, prog_name="inversion")
def inversion() -> None:
    """Any executable becomes a durable, stateful function behind HTTP, on nothing but PostgreSQL."""


for command in (init, check, dev, serve, migrate, invoke, send, state, messages, health, doctor, node):
    inversion.add_command(command)


def main() -> None:
    """Run the command that the command line names."""
    open_files.fill_standard()
    inversion(prog_name="inversion")
