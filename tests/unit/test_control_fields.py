"""The control protocol has no place for data: its descriptors, and the form of every field."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.checkpoint import Checkpoint, sign_checkpoint
from audit.cosignature import cosign
from audit.signing import SigningKey
from coordinator.control_fields import FORMS, OF_STEP, RANGES, REPORT_BYTES_MAX, check_report
from coordinator.errors import PeerError
from protos import control_pb2

JOB = "0123456789abcdef" * 4
DIGEST = "ab" * 32


def reachable(root: Descriptor) -> list[FieldDescriptor]:
    found: dict[str, Descriptor] = {}
    waiting = [root]
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return [field for message in found.values() for field in message.fields]


def name(field: FieldDescriptor) -> str:
    return f"{field.containing_type.name}.{field.name}"


def test_a_report_has_no_field_that_could_carry_data() -> None:
    fields = reachable(control_pb2.Report.DESCRIPTOR)
    kinds = {field.type for field in fields}
    numbers = {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_DOUBLE}
    assert kinds <= numbers | {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE}
    assert FieldDescriptor.TYPE_BYTES not in kinds
    assert {name(f) for f in fields if f.type == FieldDescriptor.TYPE_STRING} == set(FORMS)
    assert {name(f) for f in fields if f.type == FieldDescriptor.TYPE_DOUBLE} == set(RANGES)
    repeated = {name(f) for f in fields if f.is_repeated}
    assert repeated == {"StepDone.inner_products", "Metrics.gains", "Checkpoint.proof"}, "each list has a bound of its own"


def test_the_document_lists_every_field() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "control-fields.md").read_text()
    listed = set(re.findall(r"^\| `(\w+\.\w+)`", text, re.MULTILINE))
    fields = reachable(control_pb2.Report.DESCRIPTOR)
    assert listed == {name(f) for f in fields if f.type != FieldDescriptor.TYPE_MESSAGE}
    for field, form in FORMS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{field}`"))
        assert f"`{form.pattern}`".replace("|", "\\|") in row, f"{field}: the document shows another form"


def done(step: str, **fields: object) -> control_pb2.Report:
    values = {"job": JOB, "step": step, "round": 1 if step == "round" else 0, "transcript_sha256": DIGEST, **fields}
    return control_pb2.Report(step_done=control_pb2.StepDone(**values))  # type: ignore[arg-type]


GOOD = [
    control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="bank", software="0.1.0+x")),
    control_pb2.Report(decision=control_pb2.Decision(job=JOB, statement='{"a":1}', signature="0" * 128)),
    done("align", set_size=9, intersection=8, rows_train=6, rows_holdout=2, seconds=0.25, bytes_sent=2**40),
    done("prepare", columns=24, base_rate="0.22"),
    done("round", inner_products=[0.0625]),
    done("finish"),
    done("evaluate"),
    done("evaluate", metrics=control_pb2.Metrics(auc=0.7, gains=[control_pb2.GainsRow(decile=1, rows=2, positives=1)])),
    control_pb2.Report(step_failed=control_pb2.StepFailed(job=JOB, step="round", round=3, code="psi.too_few_shared")),
    control_pb2.Report(progress=control_pb2.StepProgress(job=JOB, step="align", phase="masking points", done=1, total=2)),
    control_pb2.Report(progress=control_pb2.StepProgress(job=JOB, step="align")),
]


@pytest.mark.parametrize("report", GOOD)
def test_reports_in_form_pass(report: control_pb2.Report) -> None:
    assert check_report(report) is report


def progress(**fields: object) -> control_pb2.Report:
    return control_pb2.Report(progress=control_pb2.StepProgress(**{"job": JOB, "step": "align", **fields}))  # type: ignore[arg-type]


NOTE = sign_checkpoint(Checkpoint("isthmus.log/bank", 7, bytes(32)), SigningKey("isthmus.log/bank", bytes(32)))
LINE = cosign(Checkpoint("isthmus.log/bank", 7, bytes(32)).text(), SigningKey("isthmus.log/platform", bytes(32)), time=1)


def checkpoint(**fields: object) -> control_pb2.Report:
    values = {"log": "bank", "witness": "platform", "note": NOTE, "old_size": 5, "proof": [DIGEST], **fields}
    return control_pb2.Report(checkpoint=control_pb2.Checkpoint(**values))  # type: ignore[arg-type]


def cosignature(**fields: object) -> control_pb2.Report:
    values = {"log": "bank", "witness": "platform", "size": 7, "line": LINE.rstrip("\n"), **fields}
    return control_pb2.Report(cosignature=control_pb2.Cosignature(**values))  # type: ignore[arg-type]


def test_checkpoints_and_cosignatures_pass() -> None:
    refusal = cosignature(line="", code="witness.forked")
    for report in (checkpoint(), checkpoint(proof=[]), cosignature(), cosignature(line=""), refusal):
        assert check_report(report) is report


BAD: dict[str, control_pb2.Report] = {
    "a note with text before it": checkpoint(note="CUST-000123\n" + NOTE),
    "a note with an extension line": checkpoint(note=NOTE.replace("\n\n", "\nCUST-000123\n\n")),
    "a note with two signatures": checkpoint(note=NOTE + LINE),
    "no note": checkpoint(note=""),
    "a hash too short": checkpoint(proof=[DIGEST, DIGEST[:-1]]),
    "too many hashes": checkpoint(proof=[DIGEST] * 64),
    "a log's name": checkpoint(log="isthmus.log/bank"),
    "a cosignature of another length": cosignature(line=LINE[:-3]),
    "text after a cosignature": cosignature(line=LINE),
    "a refusal's code": cosignature(code="No!"),
    "empty": control_pb2.Report(),
    "job too short": progress(job=JOB[:-1]),
    "job in capitals": progress(job=JOB.upper()),
    "step": progress(step="align2"),
    "no step": progress(step=""),
    "phase with digits": progress(phase="customer 17"),
    "phase too long": progress(phase="a" * 41),
    "phase with a line feed at its end": progress(phase="masking\n"),
    "round outside a round": progress(round=1),
    "no round in a round": progress(step="round"),
    "count": progress(done=2**60),
    "code": control_pb2.Report(step_failed=control_pb2.StepFailed(job=JOB, step="align", code="Not A Code")),
    "no code": control_pb2.Report(step_failed=control_pb2.StepFailed(job=JOB, step="align")),
    "code too long": control_pb2.Report(step_failed=control_pb2.StepFailed(job=JOB, step="align", code="a" * 65)),
    "transcript": done("finish", transcript_sha256="zz" * 32),
    "no transcript": done("finish", transcript_sha256=""),
    "base rate of three": done("prepare", base_rate="3.0"),
    "base rate as text": done("prepare", base_rate="high"),
    "base rate with many digits": done("prepare", base_rate="0.123456789"),
    "seconds not a number": done("finish", seconds=math.nan),
    "seconds infinite": done("finish", seconds=math.inf),
    "seconds negative": done("finish", seconds=-1.0),
    "inner product infinite": done("round", inner_products=[math.inf]),
    "inner product huge": done("round", inner_products=[1e300]),
    "too many inner products": done("round", inner_products=[0.0] * 65),
    "inner products in align": done("align", inner_products=[0.5]),
    "base rate in align": done("align", base_rate="0.2"),
    "set size in prepare": done("prepare", set_size=5),
    "columns in finish": done("finish", columns=5),
    "metrics in a round": done("round", metrics=control_pb2.Metrics()),
    "auc above one": done("evaluate", metrics=control_pb2.Metrics(auc=1.5)),
    "log-loss not a number": done("evaluate", metrics=control_pb2.Metrics(log_loss=math.nan)),
    "too many deciles": done("evaluate", metrics=control_pb2.Metrics(gains=[control_pb2.GainsRow()] * 11)),
    "statement not JSON": control_pb2.Report(decision=control_pb2.Decision(job=JOB, statement="{x}", signature="0" * 128)),
    "statement not canonical": control_pb2.Report(
        decision=control_pb2.Decision(job=JOB, statement='{"a": 1}', signature="0" * 128)
    ),
    "statement too long": control_pb2.Report(
        decision=control_pb2.Decision(job=JOB, statement='{"a":"%s"}' % ("x" * 2041), signature="0" * 128)
    ),
    "statement with a number too large": control_pb2.Report(
        decision=control_pb2.Decision(job=JOB, statement='{"a":1e999}', signature="0" * 128)
    ),
    "signature": control_pb2.Report(decision=control_pb2.Decision(job=JOB, statement='{"a":1}', signature="0" * 127)),
    "party": control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="-bank", software="1")),
    "software": control_pb2.Report(hello=control_pb2.Hello(protocol=1, party="bank", software="1 2")),
    "unknown field": control_pb2.Report.FromString(GOOD[5].SerializeToString() + b"\xfa\x01\x03abc"),
    "unknown field inside": control_pb2.Report(
        step_done=control_pb2.StepDone.FromString(GOOD[5].step_done.SerializeToString() + b"\xfa\x01\x03abc")
    ),
    "too large": progress(phase="a" * REPORT_BYTES_MAX),
}


@pytest.mark.parametrize("case", BAD)
def test_reports_out_of_form_are_refused(case: str) -> None:
    with pytest.raises(PeerError) as caught:
        check_report(BAD[case])
    assert caught.value.code == "control.bad_field"


def test_an_error_names_the_field_and_not_its_content() -> None:
    with pytest.raises(PeerError) as caught:
        check_report(progress(phase="CUST-000123"))
    assert "StepProgress.phase" in str(caught.value)
    assert "CUST" not in str(caught.value)


def test_each_field_of_a_step_belongs_to_one_step() -> None:
    fields = [field for step, names in OF_STEP.items() if step != "count" for field in names]
    assert len(fields) == len(set(fields))
    assert OF_STEP["count"] <= OF_STEP["align"], "the two steps in which the sets meet"
    always = {"job", "step", "attempt", "round", "transcript_sha256", "seconds", "bytes_sent", "bytes_received", "peak_rss_bytes"}
    assert {field.name for field in control_pb2.StepDone.DESCRIPTOR.fields} == set(fields) | always


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_checked_report_or_an_error(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        report = control_pb2.Report.FromString(data)
    except DecodeError:
        return
    try:
        check_report(report)
    except PeerError as error:
        raised = error
    else:
        return
    assert raised.code == "control.bad_field"
