"""`inversion node`: one of several nodes, started by `dev` or `serve` with --nodes; nobody types it."""

from __future__ import annotations

import os
import socket
import sys

import attrs
import click

from inversion import privacy
from inversion.cli.serving import configured, end_as, get_ready, origin_of
from inversion.config_file import ConfigError


@click.command(hidden=True)
@click.option("--number", type=int, required=True, help="For people: which of them it is.")
@click.option("--control", type=int, required=True, help="The file of the socket to its parent.")
def node(number: int, control: int) -> None:
    """One of several nodes behind one port; its parent starts it."""
    from inversion.nodes import charge as charges
    from inversion.nodes import node as nodes
    from inversion.observe import logs

    privacy.keep_memory_private()  # before it has read anything
    try:
        charge = charges.receive_charge()
    except EOFError:
        sys.exit(1)
    os.environ.update(charge.environ)
    os.set_inheritable(control, False)
    logs.configure(charge.style, sys.stdout, colour=charge.colour, node=number)
    get_ready(charge.config, dev=charge.options.dev)
    reload = None
    if charge.source is not None:
        path, mode = charge.source.path, charge.source.mode
        reload = origin_of(path, mode)
        try:  # the others have taken up what was saved since the start
            charge = attrs.evolve(charge, config=configured(path, mode)[0])
        except ConfigError as error:
            logs.get_logger("cli").error(f"the config of the start is used: {error}")
    end_as(nodes.serve, charge, socket.socket(fileno=control), reload, told=True)
