"""The report's part on jobs: parties, terms, approvals, what each side learned, and the timeline, out of what the logs say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from audit import wording
from audit.facts import DisclosureFact, JobFacts
from audit.ledger import ENDED, AttemptKey
from audit.reading import ApprovalSeen, AttemptSeen, CommitmentSeen, DisclosureKey, DisclosureSeen, JobSeen, LogSeen
from audit.spec import JobSpec

BAR_UNITS = 1000
BAR_LEAST = 4
"""The timeline's width, and a bar's least width in it."""


@dataclass(frozen=True)
class PartyPage:
    """A participant of the job and what it brought."""

    name: str
    role: str
    part: str
    dataset: str
    features: list[str]


@dataclass(frozen=True)
class ApprovalPage:
    """A party's decision, as signed.  ``time`` is the signer's word; ``where`` the log and entry that hold it."""

    party: str
    decision: str
    by: str
    time: str
    where: str
    signature: str


@dataclass(frozen=True)
class CommitmentPage:
    """What a party bound itself to, and when."""

    party: str
    what: str
    sizes: str
    step: str
    sha256: str


@dataclass(frozen=True)
class LearnedLine:
    """What a party learned from another, how many values that were, and why it was allowed (``lawful`` None: not known)."""

    by: str
    what: str
    sentence: str
    count: int
    clause: str
    why: str
    lawful: bool | None


@dataclass(frozen=True)
class Learner:
    """One party and everything that it learned."""

    name: str
    part: str
    lines: list[LearnedLine]


@dataclass(frozen=True)
class StepPage:
    """One attempt of a step (from 0, as the logs count), both nodes' logs together.  ``sent``: payload bytes by sender.

    The bar is in units of 1/1000 of the whole timeline.
    """

    step: str
    attempt: int
    start: str
    end: str
    seconds: float | None
    messages: int
    sent: list[tuple[str, int]]
    state: str
    code: str
    bar_start: int
    bar_width: int


@dataclass(frozen=True)
class JobPage:
    """One job."""

    job: str
    title: str
    outcome: str
    begun: str
    ended: str
    shared_customers: int | None
    matching: list[str]
    counted: str
    given_up: str
    rounds: int | None
    told_by: list[str]
    parties: list[PartyPage]
    terms: list[tuple[str, str]]
    small_keys: bool
    approvals: list[ApprovalPage]
    commitments: list[CommitmentPage]
    learners: list[Learner]
    left_out: int
    steps: list[StepPage]

    @property
    def kinds(self) -> int:
        """How many lines say what somebody learned."""
        return sum(len(learner.lines) for learner in self.learners)

    @property
    def repeated(self) -> bool:
        """Whether a step was taken more than once."""
        return any(step.attempt for step in self.steps)

    @property
    def unlawful(self) -> int:
        """How many of them the approved job can be seen not to allow."""
        return sum(line.lawful is False for learner in self.learners for line in learner.lines)


def job_pages(logs: Sequence[LogSeen], *, facts: Sequence[JobFacts] = (), prefix: str = "", approvals: str) -> list[JobPage]:
    """Every job in the logs whose hash begins with ``prefix``, by the time at which it first appears.

    Args:
        facts: what the verification found out beyond what single entries say.
        approvals: what came of the check of approvals: the state of that step.
    """
    names = {name for log in logs for name in log.jobs if name.startswith(prefix)}
    known = {found.job: found for found in facts}
    pages = [_job_page(name, [log for log in logs if name in log.jobs], known.get(name), approvals) for name in names]
    return sorted(pages, key=lambda page: (page.begun, page.job))


def _job_page(name: str, logs: Sequence[LogSeen], facts: JobFacts | None, approvals: str) -> JobPage:
    jobs = {log.name: log.jobs[name] for log in logs}
    spec = next((job.spec for job in jobs.values() if job.spec is not None), None)
    told = _disclosed(jobs)
    nodes = {log: job for log, job in jobs.items() if job.attempts}
    steps = _steps(nodes)
    shared = {seen.count for key, seen in told.items() if key.what == "shared_customers"}
    counted = [value for key, seen in told.items() if key.what == "rounded_size" for value in seen.values]
    trains = spec is None or spec.kind == "train"
    return JobPage(
        job=name,
        title=spec.title if spec else "",
        outcome=_outcome(jobs),
        begun=min(job.first_time for job in jobs.values()),
        ended=max((time for job in jobs.values() for time, state, _ in job.states if state in ENDED), default=""),
        shared_customers=max(shared, default=None),
        matching=sorted({wording.chosen(seen.method, seen.reason) for job in nodes.values() for seen in job.choices}),
        counted=counted[-1] if counted else "",
        given_up=wording.given_up(facts.accuracy) if facts and facts.accuracy else "",
        rounds=len({key.round for job in nodes.values() for key, seen in job.attempts.items() if _round_done(key, seen)})
        if trains
        else None,
        told_by=list(jobs),
        parties=_parties(spec, jobs),
        terms=wording.terms(spec) if spec else [],
        small_keys=spec is not None and trains and spec.model.key_bits < wording.KEY_BITS_SOUND,
        approvals=_approvals(jobs, approvals),
        commitments=[_commitment(log, seen) for log, job in jobs.items() for seen in job.commitments],
        learners=_learners(told, [item for item in facts.disclosures if not item.listed] if facts else [], spec),
        left_out=sum(job.disclosures_left_out for job in jobs.values()),
        steps=steps,
    )


def _round_done(key: AttemptKey, seen: AttemptSeen) -> bool:
    return key.step == "round" and seen.state == "done"


def _outcome(jobs: dict[str, JobSeen]) -> str:
    """How the job ended; where logs say different things, what each says."""
    logs: dict[str, list[str]] = {}
    codes: dict[str, set[str]] = {}
    for log, job in jobs.items():
        final = [(state, code) for _, state, code in job.states if state in ENDED] or [(s, c) for _, s, c in job.states]
        if final:
            state, code = final[-1]
            logs.setdefault(state, []).append(log)
            codes.setdefault(state, set()).update({code} - {""})
    if not logs:
        return "no end is recorded"
    told = {
        state: wording.OUTCOMES.get(state, state) + (f" [{', '.join(sorted(codes[state]))}]" if codes[state] else "")
        for state in logs
    }
    if len(told) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{text} (log of {', '.join(logs[state])})" for state, text in told.items())


def _part(spec: JobSpec | None, name: str) -> str:
    if spec is None:
        return ""
    parts = {spec.label_holder.name: "label holder", spec.feature_holder.name: "feature holder", spec.coordinator: "coordinator"}
    return parts.get(name, "")


def _parties(spec: JobSpec | None, jobs: dict[str, JobSeen]) -> list[PartyPage]:
    if spec is None:
        named = {approval.approval.party for job in jobs.values() for approval in job.approvals}
        return [PartyPage(name, "", "", "", []) for name in sorted(named)]
    found = [
        PartyPage(party.name, party.role, part, party.dataset, list(party.features))
        for party, part in ((spec.label_holder, "label holder"), (spec.feature_holder, "feature holder"))
    ]
    return [*found, PartyPage(spec.coordinator, "coordinator", "coordinator", "", [])]


def _approvals(jobs: dict[str, JobSeen], check: str) -> list[ApprovalPage]:
    """Each decision once, taken from the log of the one who made it where that was given."""
    found: dict[tuple[str, str], ApprovalSeen] = {}
    for log, job in jobs.items():
        for seen in job.approvals:
            key = (seen.approval.party, seen.approval.model_dump_json())
            if key not in found or log == seen.approval.party:
                found[key] = seen
    signature = {"passed": "valid", "open": "see check 4"}.get(check, "not confirmed")
    pages = [
        ApprovalPage(a.party, "approved" if a.decision == "approve" else "rejected", a.by, a.time, f"{log} {seq}", signature)
        for a, log, seq, _ in found.values()
    ]
    return sorted(pages, key=lambda page: (page.time, page.party))


def _commitment(log: str, seen: CommitmentSeen) -> CommitmentPage:
    sizes = [f"{count:,} {name}" for name, count in (("rows", seen.rows), ("columns", seen.columns), ("bits", seen.bits)) if count]
    step = str(seen.key) if seen.key.step else "approval"
    return CommitmentPage(log, wording.COMMITMENTS.get(seen.what, seen.what), ", ".join(sizes), step, seen.sha256)


# ---- what each side learned ------------------------------------------------------------------------------------------------------


def _disclosed(jobs: dict[str, JobSeen]) -> dict[DisclosureKey, DisclosureSeen]:
    """Every kind of disclosure once: as its giver's own log has it, else as the log of the one who was told."""
    found: dict[DisclosureKey, DisclosureSeen] = {}
    for log, job in jobs.items():
        found |= {key: seen for key, seen in job.disclosures.items() if key.by == log}
    for job in jobs.values():
        found |= {key: seen for key, seen in job.disclosures.items() if key.by not in jobs}
    return found


def _learners(told: dict[DisclosureKey, DisclosureSeen], unlisted: Sequence[DisclosureFact], spec: JobSpec | None) -> list[Learner]:
    order = [spec.label_holder.name, spec.feature_holder.name, spec.coordinator] if spec else []
    named = {key.to for key in told} | {item.to for item in unlisted}
    lines = [(key.to, _line(key, seen, spec)) for key, seen in told.items()]
    lines += [(item.to, _line_unlisted(item, spec)) for item in unlisted]
    return [
        Learner(name, _part(spec, name), [line for to, line in lines if to == name])
        for name in [*order, *sorted(named - set(order))]
    ]


def _line(key: DisclosureKey, seen: DisclosureSeen, spec: JobSpec | None) -> LearnedLine:
    sentence = wording.learned(key.what, by=key.by, to=key.to, count=seen.count, values=seen.values)
    why, lawful = wording.allowed(key.clause, spec)
    return LearnedLine(key.by, key.what, sentence, seen.count, key.clause, why, lawful)


def _line_unlisted(item: DisclosureFact, spec: JobSpec | None) -> LearnedLine:
    """What messages carried in an attempt that a crash cut before its giver could list it."""
    values = [item.value] if item.value else []
    sentence = wording.learned(item.what, by=item.by, to=item.to, count=item.count, values=values)
    key = AttemptKey(item.step, item.round, item.attempt)
    why, lawful = wording.allowed(item.clause, spec)
    return LearnedLine(item.by, item.what, f"{sentence} {wording.UNLISTED} ({key})", item.count, item.clause, why, lawful)


# ---- the timeline ----------------------------------------------------------------------------------------------------------------


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def _least(texts: Iterable[str]) -> str:
    return min((text for text in texts if text), default="")


def _steps(nodes: dict[str, JobSeen]) -> list[StepPage]:
    """Every attempt that a node's log tells of, in order of time, both logs joined."""
    keys = {key for job in nodes.values() for key in job.attempts}
    joined = {key: {name: job.attempts[key] for name, job in nodes.items() if key in job.attempts} for key in keys}
    starts = {key: _least(seen.start for seen in sides.values()) for key, sides in joined.items()}
    ends = {key: max(seen.end for seen in sides.values()) for key, sides in joined.items()}
    first = _moment(_least(starts.values()))
    last = _moment(max([*ends.values(), *starts.values()], default=""))
    span = (last - first).total_seconds() if first and last else 0.0

    def page(key: AttemptKey) -> StepPage:
        start, end = _moment(starts[key]), _moment(ends[key])
        seconds = (end - start).total_seconds() if start and end else None
        at = round(BAR_UNITS * (start - first).total_seconds() / span) if start and first and span > 0 else 0
        width = round(BAR_UNITS * (seconds or 0.0) / span) if span > 0 else 0
        at = min(max(at, 0), BAR_UNITS - BAR_LEAST)
        state, code = _end_of(joined[key].values())
        return StepPage(
            step=wording.STEPS.get(key.step, key.step) + (f" {key.round}" if key.round else ""),
            attempt=key.attempt,
            start=starts[key],
            end=ends[key],
            seconds=seconds,
            messages=_messages(joined[key]),
            sent=_sent(joined[key], nodes),
            state=state,
            code=code,
            bar_start=at,
            bar_width=min(max(width, BAR_LEAST), BAR_UNITS - at),
        )

    return [page(key) for key in sorted(keys, key=lambda key: (starts[key], key))]


def _end_of(sides: Iterable[AttemptSeen]) -> tuple[str, str]:
    """Done when all who tell of it say so; failed when one does; else not ended."""
    states = {seen.state: seen.code for seen in sides}
    if "failed" in states:
        return "failed", states["failed"]
    return ("done", "") if set(states) == {"done"} else ("not ended", "")


def _messages(sides: dict[str, AttemptSeen]) -> int:
    """Messages of both directions: as their senders count them, or their receiver where a sender's log is not there."""
    if len(sides) > 1:
        return sum(seen.messages_sent for seen in sides.values())
    return sum(seen.messages_sent + seen.messages_received for seen in sides.values())


def _sent(sides: dict[str, AttemptSeen], nodes: dict[str, JobSeen]) -> list[tuple[str, int]]:
    sent = [(name, sides[name].bytes_sent if name in sides else 0) for name in nodes]
    if len(nodes) == 1:
        sent += [("the other", seen.bytes_received) for seen in sides.values()]
    return sent
