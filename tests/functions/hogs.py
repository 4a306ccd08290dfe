"""Takes what its handler's name says until it is refused, and answers how much that was. `exec` mode."""

import os


def memory():
    """MiB; what it had is given back, so that there is room for the answer."""
    taken = []
    try:
        while len(taken) < 4096:
            taken.append(b"x" * (1 << 20))
    except MemoryError:
        count = len(taken)
        taken.clear()
        return count
    return -1


def files():
    taken = []
    try:
        while len(taken) < 4096:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return len(taken)
    return -1


print({"memory": memory, "files": files}[os.environ["INVERSION_HANDLER"]](), flush=True)
