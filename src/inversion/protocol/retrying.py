"""When something that failed is tried again, and when it is given up: messages and outgoing requests.

Pure: the policy, the count of failures, the age and a chance of 0 to 1 go in; a pause or a reason comes out.
Pauses double from `retry.pause` to `retry.longest_pause`, with full jitter: drawn from zero to that. A
Retry-After is the least: the jitter comes on top, so that those who were told the same do not come at once.
Only failures count. Being claimed again after a node died, or a deploy, is none.
"""

from __future__ import annotations

from typing import Final

import attrs

from inversion.config import Retry

#: Doubling stops mattering long before; a float would overflow at 2 ** 1024.
_MOST_DOUBLINGS: Final = 60


@attrs.frozen(slots=True)
class Again:
    """Try again, so long from now."""

    after_s: float


@attrs.frozen(slots=True)
class GiveUp:
    """A dead letter; `reason` is the end of a sentence that begins with what failed."""

    reason: str


def after_failure(
    policy: Retry, *, failures: int, age_s: float, chance: float, retry_after_s: float | None = None
) -> Again | GiveUp:
    """What to do after a failure. `failures` counts it; `age_s` is from birth to now, by one clock."""
    if failures >= policy.attempts:
        return GiveUp(f"failed {failures} times: retry.attempts is {policy.attempts}")
    left_s = policy.max_age_s - age_s
    if left_s <= 0:
        return GiveUp(f"failed for {age_s:.0f} s: retry.max_age is {policy.max_age_s:g} s")
    if retry_after_s is not None and retry_after_s >= left_s:
        return GiveUp(f"was told to wait for {retry_after_s:.0f} s, longer than the rest of retry.max_age")
    pause_s = chance * longest_pause_s(policy, failures)
    if retry_after_s is not None:
        pause_s += retry_after_s
    return Again(min(pause_s, left_s))  # the last try is at the latest at max_age


def longest_pause_s(policy: Retry, failures: int) -> float:
    """What the pause after so many failures is drawn up to."""
    return min(policy.longest_pause_s, policy.pause_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
