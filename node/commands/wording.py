"""A job in words, for the person who decides about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from audit.accuracy import Accuracy
from audit.spec import JobSpec, Party
from audit.wording import given_up


def _side(party: Party, holds: str) -> str:
    features = f", {len(party.features)} features: " + ", ".join(party.features) if party.features else ""
    return f"{party.name} ({party.role}, {holds}): data set {party.dataset!r}{features}"


def _found_by(spec: JobSpec) -> str:
    keys = spec.align.keys
    if not keys:
        return f"identifiers: {spec.align.normalise}"
    return "tried in this order: " + ", ".join(f"{key.name} ({key.normalise})" for key in keys)


def describe_spec(spec: JobSpec, me: str) -> list[str]:
    """The specification as lines for a person; ``me`` is this node's name."""
    model, align = spec.model, spec.align
    head = [f"title: {spec.title or '(none)'}", f"this node is {me}; the coordinator is {spec.coordinator}"]
    if spec.kind == "count":
        return [*head, *_describe_count(spec)]
    lines = [
        *head,
        "label holder: " + _side(spec.label_holder, f"label {spec.label_column!r}"),
        "feature holder: " + _side(spec.feature_holder, "no label"),
        f"shared customers: found by private set intersection (method {align.method}, {_found_by(spec)}); "
        f"given up below {align.minimum}",
        f"model: logistic regression, l2 {model.l2}, at most {model.rounds} rounds, {model.key_bits}-bit {model.key_kind} keys",
        f"evaluation: a fraction of {model.holdout} of the shared customers is held out{_most(model.evaluate_rows)}; "
        f"scores in {model.bands} bands",
        f"training: on all other shared customers{_most(model.train_rows)}",
    ]
    if spec.publisher is not None:
        querier = spec.peer_of(spec.publisher.name).name
        whose = "you" if spec.publisher.name == me else spec.publisher.name
        lines.append(
            f"published filter: {querier} is sent all customers of {whose} under a secret key, or what changed among them since "
            "the last such job, and asks about its own; key and filter serve further jobs as long as both policies let them"
        )
    return lines


def _describe_count(spec: JobSpec) -> list[str]:
    learner, teller = spec.party(spec.learner), spec.peer_of(spec.learner)
    return [
        f"question: how many customers both share ({_found_by(spec)}), and nothing else: not which, and no model",
        "learner: " + _side(learner, "learns the exact number"),
        "teller: " + _side(teller, "learns the rounded number" if spec.count.tell_partner else "is told no number"),
        f"told onwards: rounded down to a multiple of {spec.count.step}, or that it is below {spec.align.minimum}",
    ]


def _most(rows: int | None) -> str:
    """A bound on the rows of a group, where the job has one."""
    return f", of which a sample of at most {rows} serves, drawn by a public coin that neither party can sway" if rows else ""


def accuracy_line(document: Mapping[str, Any] | None) -> str:
    """What the model document says of the rows trained on; "" where it says nothing."""
    return given_up(Accuracy.of(document)) if document else ""


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """The evaluation's aggregates, with their standard errors where this node has them."""
    errors = {name: metrics.get(f"{name}_standard_error") for name in ("auc", "log_loss")}
    auc, loss = (f" (standard error {error:.2g})" if error is not None else "" for error in errors.values())
    return (
        f"on {metrics['rows']} held-out rows: AUC {metrics['auc']:.4f}{auc}, KS {metrics['ks']:.4f}, "
        f"log-loss {metrics['log_loss']:.5f}{loss}"
    )


def will_disclose(spec: JobSpec, me: str) -> list[str]:
    """What this node would disclose, and to whom: the rows of protocols.md, "What anyone learns", that concern it."""
    if me not in (spec.label_holder.name, spec.feature_holder.name):
        return []
    peer, coordinator, holds_label = spec.peer_of(me).name, spec.coordinator, spec.label_holder.name == me
    if spec.kind == "count":
        return _will_count(spec, me)
    lines = [
        f"to {peer} and {coordinator}: how many identifiers the data set has, how many are shared, how many columns are used",
        f"to {peer}: which of {peer}'s own customers are also yours",
    ]
    if spec.publisher is not None and spec.publisher.name == me:
        lines.append(
            f"to {peer}: which entries of your published filter, whoever they are, came and went since its last job with you"
        )
    if spec.align.keys:
        names = ", ".join(key.name for key in spec.align.keys)
        lines.append(f"to {peer}: by which of {names} each was found, and how many of your customers not found before have each")
    if holds_label:
        lines.append(f"to {peer} and {coordinator}: the base rate of {spec.label_column!r} among shared customers, two digits")
    lines.append(
        f"to {peer} and {coordinator}: at most {spec.model.rounds * (spec.model.rounds + 1) // 2} inner products of the training's "
        "gradients and directions"
    )
    lines.append(f"to {peer}: {peer}'s own half of the model, at the end")
    if not holds_label:
        lines.append(f"to {peer}: the score band of each held-out shared customer")
    elif spec.disclose.aggregates_to_feature_holder:
        lines.append(f"to {peer}: AUC, KS, log-loss and base rate of the evaluation")
    if holds_label and spec.disclose.aggregates_to_coordinator:
        lines.append(f"to {coordinator}: AUC, KS, log-loss, base rate and the gains table of the evaluation")
    return lines


def _will_count(spec: JobSpec, me: str) -> list[str]:
    """The same of a count."""
    peer, count = spec.peer_of(me).name, spec.count
    lines = [f"to {peer} and {spec.coordinator}: how many identifiers the data set has"]
    if spec.learner != me:
        return [*lines, f"to {peer}: exactly how many customers you share, however few; not which"]
    told = [name for name, yes in ((peer, count.tell_partner), (spec.coordinator, count.tell_coordinator)) if yes]
    if told:
        number = f"how many customers you share, rounded down to a multiple of {count.step}"
        lines.append(f"to {' and '.join(told)}: {number}, or that it is below {spec.align.minimum}; not which")
    return lines


def counted(found: dict[str, int | None]) -> str:
    """What this node knows of a count that is done, from its ``count.json``."""
    below, told, exact = f"below {found['minimum']}", found["told"], found["customers"]
    if not told:
        return below
    return (
        f"{exact} exactly; told onwards: {told}" if exact is not None else f"{told}, rounded down to a multiple of {found['step']}"
    )
