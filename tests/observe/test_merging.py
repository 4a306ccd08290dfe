"""Several nodes' metrics as one page."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from inversion.observe.merging import family, merged

PAGE = """# HELP up Is it.
# TYPE up gauge
up 1.0
# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{function="a b",outcome="applied"} %s
calls_total{function="c}",outcome="applied"} 2.0
# HELP seconds Times.
# TYPE seconds histogram
seconds_bucket{le="+Inf"} 3.0
seconds_count 3.0
"""


def test_each_sample_says_of_which_node_it_is_and_each_family_stands_once() -> None:
    page = merged({0: PAGE % 1, 1: PAGE % 5})
    families = {each.name: each for each in text_string_to_metric_families(page)}
    assert list(families) == ["up", "calls", "seconds"]
    assert page.count("# TYPE") == 3
    found = {
        (sample.labels["node"], sample.labels["function"]): sample.value
        for sample in families["calls"].samples
    }
    assert found == {("0", "a b"): 1, ("0", "c}"): 2, ("1", "a b"): 5, ("1", "c}"): 2}
    assert [sample.labels for sample in families["up"].samples] == [{"node": "0"}, {"node": "1"}]
    assert families["seconds"].type == "histogram"


def test_what_is_of_no_node_comes_first() -> None:
    own = family("nodes_up", "gauge", "How many.", {"": 2})
    assert merged({0: "# TYPE x gauge\nx 1\n"}, own).splitlines() == [
        "# HELP nodes_up How many.",
        "# TYPE nodes_up gauge",
        "nodes_up 2",
        "# TYPE x gauge",
        'x{node="0"} 1',
    ]
