"""The metrics of several nodes as one page: each sample gets the label `node`, each family stands once."""

from __future__ import annotations

from collections.abc import Mapping


def merged(pages: Mapping[int, str], own: str = "") -> str:
    """`pages`: what each node shows, in Prometheus' text format; `own`: what is of no node."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for node, page in pages.items():
        family = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(_labelled(line, node))
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return own + "".join(f"{line}\n" for line in lines)


def family(name: str, kind: str, help: str, values: Mapping[str, float]) -> str:
    """A family of the parent's own; the values by their labels as they are written, "" for none."""
    head = f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
    return head + "".join(f"{name}{labels} {value:g}\n" for labels, value in values.items())


def _labelled(sample: str, node: int) -> str:
    label = f'node="{node}"'
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
