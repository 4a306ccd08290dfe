"""A whole history, entity by entity: linearizability is local, so each is checked on its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import attrs
from tests.faults.history.models import ALL_MODELS, Model, model_of, program
from tests.faults.history.operation import Operation
from tests.faults.history.programs import foretold
from tests.faults.history.replay import replay
from tests.faults.history.search import search
from tests.faults.history.verdict import Verdict


@attrs.frozen
class Checked:
    operations: int
    entities: int
    told: Mapping[str, int]  #: operations by `model/kind outcome`
    failed: Mapping[str, Verdict]  #: by entity; empty: all is well

    @property
    def passed(self) -> bool:
        return not self.failed

    def sentences(self) -> list[str]:
        return [f"{entity}: {verdict.sentence}" for entity, verdict in self.failed.items()]


def by_entity(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    entities: dict[str, list[Operation]] = {}
    for operation in operations:
        entities.setdefault(operation.entity, []).append(operation)
    return entities


def check_versions(operations: Iterable[Operation], models: Mapping[str, Model] = ALL_MODELS) -> Checked:
    """Checker 1 on every entity; a program's history must be what was foretold as well."""
    entities = by_entity(operations)
    return _checked(entities, {name: _by_version(name, own, models) for name, own in entities.items()})


def _by_version(name: str, own: list[Operation], models: Mapping[str, Model]) -> Verdict:
    model = model_of(name, models)
    verdict = replay(own, model)
    return foretold(own) if verdict.passed and model is program else verdict


def check_hidden(
    operations: Iterable[Operation],
    models: Mapping[str, Model] = ALL_MODELS,
    *,
    versions: bool = False,
    limit_s: float = 10.0,
) -> Checked:
    """Checker 2 on every entity, with so much time for each."""
    entities = by_entity(operations)
    verdicts = {
        name: search(own, model_of(name, models), versions=versions, limit_s=limit_s)
        for name, own in entities.items()
    }
    return _checked(entities, verdicts)


def _checked(entities: Mapping[str, list[Operation]], verdicts: Mapping[str, Verdict]) -> Checked:
    told: Counter[str] = Counter()
    for name, own in entities.items():
        model = name.partition("/")[0]
        for (kind, outcome), times in Counter((each.kind, each.outcome) for each in own).items():
            told[f"{model}/{kind} {outcome.value}"] += times
    return Checked(
        sum(map(len, entities.values())),
        len(entities),
        dict(told),
        {name: verdict for name, verdict in verdicts.items() if not verdict.passed},
    )
