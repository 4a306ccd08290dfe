"""What functions of the same account cannot read of a node; tests/image sees the whole."""

import subprocess
import sys

PR_GET_DUMPABLE = 3

PRIVATE = f"""
import ctypes, subprocess, sys
from inversion import privacy
ask = "import ctypes; print(ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}))"
privacy.keep_memory_private()
exec(ask)
sys.stdout.flush()
subprocess.run([sys.executable, "-c", ask], check=True)
"""


def test_the_memory_is_private_and_that_of_a_started_program_is_not():
    run = subprocess.run([sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0", "1"]
