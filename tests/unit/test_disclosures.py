"""What a step is said to have disclosed, to whom and how often."""

from __future__ import annotations

from node.protocols.metrics import Metrics
from node.runtime.disclosures import Facts, of_step, receipt
from tests.nodes import spec_of

METRICS = Metrics(auc=0.75, ks=0.4, log_loss=0.5, base_rate=0.2, rows=60, gains=[(d, 6, 1) for d in range(1, 11)])


def crossed(step: str, me: str, sent: dict[str, int], facts: Facts | None, **spec: object) -> list[tuple[str, str, int]]:
    return [(d.what, d.to, d.count) for d in of_step(step, spec=spec_of(**spec), me=me, sent=sent, facts=facts)]


def test_the_rows_of_the_table_step_by_step() -> None:
    facts = Facts(set_size=250, intersection=200, rows_train=140, rows_holdout=60)
    assert crossed("align", "bank", {"PsiStart": 1, "DoublyMasked": 300}, facts) == [
        ("set_size", "platform", 1),
        ("shared_customers", "platform", 200),
        ("set_size", "coordinator", 1),
        ("rows", "coordinator", 3),
    ]
    facts = Facts(columns=3, base_rate="0.22")
    assert crossed("prepare", "bank", {"JobFigures": 1}, facts) == [
        ("columns", "platform", 1),
        ("base_rate", "platform", 1),
        ("columns", "coordinator", 1),
        ("base_rate", "coordinator", 1),
    ]
    assert crossed("prepare", "platform", {"JobFigures": 1}, facts) == [("columns", "bank", 1), ("columns", "coordinator", 1)]
    facts = Facts(inner_products=[0.5, 0.25])
    assert crossed("round", "platform", {"InnerProductParts": 2}, facts) == [
        ("inner_products", "bank", 2),
        ("inner_products", "coordinator", 2),
    ]
    assert crossed("finish", "bank", {"WeightShares": 3}, Facts()) == [("weights_of_the_receiver", "platform", 3)]
    assert crossed("evaluate", "platform", {"BandTables": 60}, Facts()) == [("score_bands", "bank", 60)]
    assert crossed("evaluate", "bank", {"Aggregates": 1}, Facts(metrics=METRICS)) == [
        ("aggregates", "platform", 5),
        ("aggregates", "coordinator", 35),
    ]


def test_aggregates_go_only_where_the_specification_says() -> None:
    closed = {"aggregates_to_feature_holder": False, "aggregates_to_coordinator": False}
    assert crossed("evaluate", "bank", {}, Facts(metrics=METRICS), disclose=closed) == []
    assert crossed("evaluate", "platform", {"BandTables": 60}, Facts(metrics=METRICS)) == [("score_bands", "bank", 60)]


def test_a_failed_attempt_disclosed_what_it_had_sent() -> None:
    assert crossed("align", "bank", {}, None) == []
    assert crossed("align", "bank", {"PsiStart": 1}, None) == [("set_size", "platform", 1)]
    assert crossed("align", "bank", {"PsiStart": 1, "DoublyMasked": 300}, None) == [
        ("set_size", "platform", 1),
        ("shared_customers_at_most", "platform", 300),
    ]
    assert crossed("prepare", "bank", {"JobFigures": 1}, None) == [("columns", "platform", 1), ("base_rate", "platform", 1)]
    assert crossed("round", "bank", {"InnerProductParts": 2}, None) == [("inner_products", "platform", 2)]


def test_the_receipt_adds_up() -> None:
    rows = [{"what": "k", "to": "c", "count": n, "clause": "x", "value": ""} for n in (1, 2, 3)]
    assert receipt(rows) == [{"what": "k", "to": "c", "count": 6, "clause": "x"}]
