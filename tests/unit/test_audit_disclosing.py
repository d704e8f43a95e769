"""Step (9): logs that are whole and signed, and tell of other disclosures than their messages carried or the job allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.ledger import LogRejected
from audit.verify import verify_logs
from tests.unit.audit_world import (
    BANK,
    COORDINATOR,
    JOB,
    PLATFORM,
    Event,
    approvals,
    attempt,
    ending,
    events,
    index,
    of,
    opening,
    policy,
    refused,
    write,
)


def every_disclosure() -> list[tuple[str, str, str]]:
    return [
        (event.log, event.fields["step"], f"{event.fields['what']} {event.fields['to']} {event.fields.get('party', '')}")
        for event in events()
        if event.kind == "disclosure"
    ]


def disclosure(told: list[Event], log: str, step: str, name: str) -> Event:
    what, to, party = name.split(" ")
    more = {"party": party} if party else {}
    return of(told, log, "disclosure", step=step, what=what, to=to, **more)


SOME = [d for d in every_disclosure() if d[1:] in (("align", "rows coordinator bank"), ("finish", "weights_of_the_receiver bank "))]
CASES = [(*d, change) for d in every_disclosure() for change in ("omitted", "value")]
CASES += [(*d, change) for d in SOME for change in ("twice", "count", "clause", "what")]


@pytest.mark.parametrize(("log", "step", "name", "change"), CASES)
def test_no_disclosure_can_be_left_out_added_or_changed(tmp_path: Path, log: str, step: str, name: str, change: str) -> None:
    told = events()
    event = disclosure(told, log, step, name)
    if change == "omitted":
        told.remove(event)
    elif change == "twice":
        told.insert(told.index(event), event)
    elif change == "count":
        event.fields["count"] += 1
    elif change == "value":
        event.fields["value"] += "1"
    elif change == "clause":
        event.fields["clause"] = "spec: disclose.aggregates_to_coordinator"
    else:
        event.fields["what"] = "aggregates"
    # The liar's receipt agrees with its entries.
    told = [event for event in told if event.kind != "disclosures" and not (event.kind == "job" and event.log != COORDINATOR)]
    told = [event for event in told if not (event.kind == "job" and event.fields["state"] == "finished")]
    error = refused(tmp_path, told + ending(told))
    if "inner_products" in name and change == "value":
        assert (error.step, error.code) == (7, "audit.inner_products")
    else:
        assert error.step == 9, error.message
        assert error.log in (log, COORDINATOR)


@pytest.mark.parametrize("log", [BANK, PLATFORM, COORDINATOR])
@pytest.mark.parametrize("change", ["omitted", "twice", "count", "clause", "to", "all"])
def test_the_receipt_is_the_sum_of_the_entries(tmp_path: Path, log: str, change: str) -> None:
    told = events()
    event = of(told, log, "disclosures")
    items = event.fields["items"]
    if change == "omitted":
        del items[2]
    elif change == "twice":
        items.append(items[2])
    elif change == "count":
        items[0]["count"] += 1
    elif change == "clause":
        items[0]["clause"] = "protocols.md: weights"
    elif change == "to":
        items[0]["to"] = "somebody"
    elif log == COORDINATOR:
        items.clear()
    else:
        told.remove(event)
    error = refused(tmp_path, told)
    assert (error.step, error.code, error.log) == (9, "audit.receipt_items", log)


def test_what_the_coordinator_leaves_out_shows_without_the_nodes_log(tmp_path: Path) -> None:
    """Of each report it is known what it told; the log of the node that sent it is not needed for that."""
    told = [event for event in events() if not (event.kind in ("disclosures", "job") and event.fields.get("state") != "submitted")]
    told.remove(of(told, COORDINATOR, "disclosure", what="columns", party=BANK))
    folders = write(tmp_path, told + ending(told))
    with pytest.raises(LogRejected) as caught:
        verify_logs([folders[PLATFORM], folders[COORDINATOR]], policy=policy(tmp_path))
    assert (caught.value.step, caught.value.code) == (9, "audit.disclosure_missing")


def test_aggregates_that_the_job_keeps_from_the_coordinator(tmp_path: Path) -> None:
    told = events()
    at = index(told, BANK, "disclosure", what="columns", to=COORDINATOR)
    forbidden = {"what": "aggregates", "to": COORDINATOR, "count": 5, "clause": "spec: disclose.aggregates_to_coordinator"}
    labels = {"job": JOB, "step": "prepare", "round": 0, "attempt": 0}
    told.insert(at, Event(BANK, "disclosure", {**labels, **forbidden, "value": "{}"}))
    error = refused(tmp_path, told)
    assert (error.step, error.code, error.log) == (9, "audit.disclosure_forbidden", BANK)


def test_a_failed_attempt_disclosed_what_it_had_sent(tmp_path: Path) -> None:
    told = [*opening(), *approvals(), *attempt("align", outcome="failed")]
    verified = verify_logs(list(write(tmp_path / "a", told + ending(told, "failed")).values()), policy=policy(tmp_path))
    assert verified.whole
    assert {fact.what for fact in verified.jobs[0].disclosures} == {"set_size", "shared_customers_at_most"}
    told.remove(of(told, BANK, "disclosure", what="shared_customers_at_most"))
    error = refused(tmp_path, told + ending(told, "failed"))
    assert (error.step, error.code, error.log) == (9, "audit.disclosure_missing", BANK)


def test_what_a_crash_kept_from_being_written_down_is_told(tmp_path: Path) -> None:
    """The node crashes after its messages: no disclosure entry, but they were carried, and the facts say so."""
    cut = [e for e in attempt("align", outcome="crashed") if e.kind != "disclosure"]
    labels = {"job": JOB, "step": "align", "round": 0, "attempt": 0}
    cut += [Event(log, "step", {**labels, "state": "failed", "code": "job.interrupted"}) for log in (BANK, PLATFORM)]
    told = [*opening(), *approvals(), *cut]
    verified = verify_logs(list(write(tmp_path, told + ending(told, "failed")).values()), policy=policy(tmp_path))
    assert verified.whole
    found = {(fact.by, fact.what, fact.listed) for fact in verified.jobs[0].disclosures}
    assert found == {(by, what, False) for by in (BANK, PLATFORM) for what in ("set_size", "shared_customers_at_most")}
