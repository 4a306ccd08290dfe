"""Connections from hand to hand: how the parent asks a node something.

Each question has a connection of its own: a pair of sockets, one end of which goes through the control
socket to the node, where `HandedOver` stands in the place of a listening socket. There is no path and no
port that others could come by.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import trio

_ONE: bytes = b"c"  # a file goes with a byte


class HandedOver:
    """The node's end."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        control.setblocking(False)

    def fileno(self) -> int:
        return self._control.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        """As of a listening socket: raises BlockingIOError when there is nothing."""
        data, files, _, _ = socket.recv_fds(self._control, len(_ONE), 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise BlockingIOError(errno.EAGAIN, "the parent is gone")
        if not files:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # the kernel had no number for it
        return socket.socket(fileno=files[0]), None

    def close(self) -> None:
        self._control.close()


def hand_over(control: socket.socket) -> trio.SocketStream:
    """The parent's end: a new connection to the node.

    Raises OSError: the node is gone, or has for long taken none of those that it was given.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            socket.send_fds(control, [_ONE], [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours))


def inherited(files: list[int]) -> list[socket.socket]:
    """The sockets behind these numbers. What the node starts does not inherit them."""
    sockets = []
    with contextlib.ExitStack() as undo:
        for file in files:
            os.set_inheritable(file, False)
            sock = undo.enter_context(socket.socket(fileno=file))
            sock.setblocking(False)
            sockets.append(sock)
        undo.pop_all()
    return sockets
