"""What came of a run: the checker's verdict, the floors against passing for nothing, and the figures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from tests.faults.campaign.campaign import Campaign
from tests.faults.campaign.cuts import Cut
from tests.faults.history.check import Checked, check_versions
from tests.faults.history.models import MISMATCH
from tests.faults.history.operation import Operation, Outcome, read_history

LEAST_OK: Final = 0.7
LEAST_WRITES: Final = 0.5
LEAST_KEYED: Final = 0.25
READS: Final = ("read", "state")
#: What goes by messages, counted when it has come to its end (talking.py).
TALKING: Final = (
    "payments",
    "chains",
    "hops",
    "messages to everybody",
    "programs of timers",
    "timers that rang",
    "snapshots",
    "seen under way",
    "sent to nobody",
    "publications",
    "sends",
    "outputs",
    "forwards",
    "naps",
    "orders",
    "minutes that struck",
)


@attrs.frozen
class Floors:
    """Below these a pass says nothing."""

    of_a_kind: int = 100  #: operations of each kind whose outcome is known
    fired: int = 1  #: of each fault
    conflicts: int = 1  #: with several nodes
    resolved: int = 1  #: unknown, each way
    programs: int = 20  #: that came to their end
    talking: int = 20  #: of each workload that goes by messages, those that came to their end


def report_of(campaign: Campaign, floors: Floors) -> dict[str, Any]:
    """As JSON; `wrong` is empty when the run is a proof."""
    operations = list(read_history(campaign.history))
    checked = check_versions(operations)
    total = len(operations)
    known = sum(each.ran and each.outcome is not Outcome.UNKNOWN for each in operations)
    writes = sum(each.kind not in READS for each in operations)
    keyed = sum(each.key is not None for each in operations)
    unknown = sum(each.outcome is Outcome.UNKNOWN for each in operations)
    kinds = Counter(
        f"{each.entity.partition('/')[0]} {each.kind}"
        for each in operations
        if each.ran and each.outcome is not Outcome.UNKNOWN
    )
    conditions = _conditions(operations)
    tally = campaign.tally
    counters = {
        name: sum(node.count(name) for node in campaign.nodes)
        for name in ("commits", "conflicts", "unknown_outcomes", "database_losses")
    }
    recovery = {kind: _spread(times) for kind, times in sorted(campaign.faults.recovery_s.items())}
    report: dict[str, Any] = {
        "options": attrs.asdict(campaign.options),
        "operations": total,
        "entities": checked.entities,
        "violations": len(checked.failed),
        "at most, with 95 %": f"{3 / max(1, total):.1e} violations per operation",
        "outcome known": _share(known, total),
        "writes": _share(writes, total),
        "keyed": _share(keyed, total),
        "unknown": unknown,
        "unknown, repeated: had landed": tally.landed,
        "unknown, repeated: had not landed": tally.not_landed,
        "unknown, repeated, never told": tally.never_told,
        "not sent": tally.unsent,
        "answers": dict(tally.codes.most_common()),
        "kinds": dict(sorted(kinds.items())),
        "conditions": conditions,
        "programs": tally.ended,
        "programs given up": tally.given_up,
        "messages": {name: campaign.talking.counts[name] for name in TALKING},
        "messages, all at their ends after s": campaign.talking.drained_s,
        "faults": dict(campaign.faults.fired),
        "commits cut": {cut.value: sum(node.wire.cuts[cut] for node in campaign.nodes) for cut in Cut},
        "recovery s": recovery,
        "nodes count": counters,
        "lives of nodes": sum(node.lives for node in campaign.nodes),
        "read in peace": campaign.final_reads,
    }
    report["wrong"] = [
        *_violations(checked),
        *_some("things wrong with messages", [each.sentence for each in campaign.talking.wrong]),
        *campaign.wrong,
        *campaign.faults.wrong,
        *_some("strange answers", tally.strange),
        *_some("calls that outlived their deadline", tally.late),
        *_too_little(campaign, floors, report, kinds, counters),
    ]
    return report


def _too_little(
    campaign: Campaign,
    floors: Floors,
    report: Mapping[str, Any],
    kinds: Counter[str],
    counters: dict[str, int],
) -> list[str]:
    wrong = []
    for name, least in (("outcome known", LEAST_OK), ("writes", LEAST_WRITES), ("keyed", LEAST_KEYED)):
        if campaign.options.keyed == 0 and name == "keyed":
            continue
        if report[name] < least:
            wrong.append(f"{name}: only {report[name]:.0%}, at least {least:.0%}")
    wrong += [f"{kind}: only {kinds[kind]} times" for kind in kinds if kinds[kind] < floors.of_a_kind]
    conditions: Mapping[str, int] = report["conditions"]
    wrong += [f"{name}: only {n} times" for name, n in conditions.items() if n < floors.of_a_kind]
    if report["programs"] < floors.programs:
        wrong.append(f"only {report['programs']} programs came to their end")
    talked: Mapping[str, int] = report["messages"]
    wrong += [f"{name}: only {n}" for name, n in talked.items() if n < floors.talking]
    fired = campaign.faults.fired
    wrong += [
        f"{kind}: fired {fired[kind]} times" for kind in campaign.faults.kinds if fired[kind] < floors.fired
    ]
    if len(campaign.nodes) > 1 and counters["conflicts"] < floors.conflicts:
        wrong.append(f"only {counters['conflicts']} conflicts")
    if campaign.options.keyed and min(campaign.tally.landed, campaign.tally.not_landed) < floors.resolved:
        wrong.append("not enough unknown outcomes were resolved each way")
    return wrong


def _conditions(operations: Sequence[Operation]) -> dict[str, int]:
    """How often a call had one that held, and one that did not."""
    names = [f"{name} {how}" for name in ("If-Match", "If-None-Match") for how in ("held", "refused")]
    found = dict.fromkeys(names, 0)
    for each in operations:
        if (
            each.ran
            and each.outcome is not Outcome.UNKNOWN
            and (each.none_match or each.if_match is not None)
        ):
            how = "refused" if each.answer == MISMATCH else "held"
            found[f"{'If-None-Match' if each.none_match else 'If-Match'} {how}"] += 1
    return found


def _violations(checked: Checked) -> list[str]:
    return [f"VIOLATION {sentence}" for sentence in checked.sentences()]


def _some(what: str, found: list[str]) -> list[str]:
    return [f"{len(found)} {what}, the first: {found[0]}"] if found else []


def _share(part: int, whole: int) -> float:
    return round(part / max(1, whole), 3)


def _spread(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(times_s)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        "times": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p99": round(p99, 2),
        "max": round(ordered[-1], 2),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The same for people."""
    lines = ["| | |", "|---|---|"]
    for name in (
        "operations",
        "entities",
        "violations",
        "at most, with 95 %",
        "outcome known",
        "writes",
        "keyed",
        "programs",
        "programs given up",
    ):
        lines.append(f"| {name} | {report[name]} |")
    for name in report:
        if name.startswith("unknown"):
            lines.append(f"| {name} | {report[name]} |")
    lines += [f"| messages: {name} | {value} |" for name, value in report["messages"].items()]
    for name, value in report["nodes count"].items():
        lines.append(f"| {name.replace('_', ' ')} | {value} |")
    lines += ["", "| fault | times | recovery, median | p99 | most |", "|---|---|---|---|---|"]
    for kind, spread in report["recovery s"].items():
        times = " | ".join(f"{spread[name]} s" for name in ("median", "p99", "max"))
        lines.append(f"| {kind} | {report['faults'][kind]} | {times} |")
    return "\n".join(lines) + "\n"
