"""A bounded bomb: it starts sessions that wait until it may not, and answers how many they are."""

import os

started = 0
try:
    while started < 400:
        if os.fork() == 0:
            os.setsid()
            os.execvp("sleep", ["sleep", "600"])
        started += 1
except OSError:
    print(started)
