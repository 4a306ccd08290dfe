"""The `inversion` command with something altered for a test: `python altered_node.py serve ...`.

The alterations live here and replace parts of a node that runs; nothing of them ships.
INVERSION_SWEEP_S: recorded answers past their retention are looked for so often.
INVERSION_CRASH_AT: where it kills itself (crash_points.py, message_points.py).
INVERSION_LEASE_S: how long it has what it took of messages, instead of 10 s.
INVERSION_CRON_S: schedules are looked at so often.
INVERSION_CLOCK_OFF_S: how far its wall clock is off.
"""

from __future__ import annotations

import os
import time


def set_clock(off_by_s: int) -> None:
    """Before anything has asked for the time."""
    time_s, time_ns = time.time, time.time_ns
    time.time = lambda: time_s() + off_by_s
    time.time_ns = lambda: time_ns() + off_by_s * 1_000_000_000


def shorten_leases(lease_s: float) -> None:
    from inversion.delivery import dispatcher, fan_out
    from inversion.state import consequence_rows, outbox, publications

    lease_ms = int(lease_s * 1_000)
    consequence_rows.LEASE_MS = lease_ms  # type: ignore[misc]
    fan_out.LEASE_MS = lease_ms
    outbox._LEASE = publications._LEASE = lease_ms.to_bytes(8, "big")  # type: ignore[misc]
    dispatcher._RENEW_S = lease_s / 3  # type: ignore[misc]


def alter() -> None:
    """As the environment says."""
    if off_by_s := os.environ.get("INVERSION_CLOCK_OFF_S"):
        set_clock(int(off_by_s))
    from inversion.state import sweeper

    if pause_s := os.environ.get("INVERSION_SWEEP_S"):
        sweeper.PAUSE_S = float(pause_s)  # type: ignore[misc]
    if crash_at := os.environ.get("INVERSION_CRASH_AT"):
        import crash_points
        import message_points

        (message_points if crash_at.startswith(("m", "t")) else crash_points).arm(crash_at)
    if look_s := os.environ.get("INVERSION_CRON_S"):
        from inversion.delivery import cron

        cron.POLL_S = float(look_s)  # type: ignore[misc]
    if lease_s := os.environ.get("INVERSION_LEASE_S"):
        shorten_leases(float(lease_s))


def main() -> None:
    alter()
    from inversion.cli import main as run

    run()


if __name__ == "__main__":
    main()
