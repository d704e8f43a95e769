"""A job in words, for the person who decides about it."""

from __future__ import annotations

from audit.spec import JobSpec, Party


def _side(party: Party, holds: str) -> str:
    return f"{party.name} ({party.role}, {holds}): data set {party.dataset!r}, {len(party.features)} features: " + ", ".join(
        party.features
    )


def describe_spec(spec: JobSpec, me: str) -> list[str]:
    """The specification as lines for a person; ``me`` is this node's name."""
    model, align = spec.model, spec.align
    lines = [
        f"title: {spec.title or '(none)'}",
        f"this node is {me}; the coordinator is {spec.coordinator}",
        "label holder: " + _side(spec.label_holder, f"label {spec.label.column!r}"),
        "feature holder: " + _side(spec.feature_holder, "no label"),
        f"shared customers: found by private set intersection (identifiers: {align.normalise}); given up below {align.minimum}",
        f"model: logistic regression, l2 {model.l2}, at most {model.rounds} rounds, {model.key_bits}-bit keys",
        f"evaluation: a fraction of {model.holdout} of the shared customers is held out; scores in {model.bands} bands",
    ]
    if spec.publisher is not None:
        querier = spec.peer_of(spec.publisher.name).name
        whose = "you" if spec.publisher.name == me else spec.publisher.name
        lines.append(
            f"published filter: {querier} is sent all customers of {whose} under a secret key, or what changed among them since "
            "the last such job, and asks about its own; key and filter serve further jobs as long as both policies let them"
        )
    return lines


def will_disclose(spec: JobSpec, me: str) -> list[str]:
    """What this node would disclose, and to whom: the rows of protocols.md, "What anyone learns", that concern it."""
    if me not in (spec.label_holder.name, spec.feature_holder.name):
        return []
    peer, coordinator, holds_label = spec.peer_of(me).name, spec.coordinator, spec.label_holder.name == me
    lines = [
        f"to {peer} and {coordinator}: how many identifiers the data set has, how many are shared, how many columns are used",
        f"to {peer}: which of {peer}'s own customers are also yours",
    ]
    if spec.publisher is not None and spec.publisher.name == me:
        lines.append(
            f"to {peer}: which entries of your published filter, whoever they are, came and went since its last job with you"
        )
    if holds_label:
        lines.append(f"to {peer} and {coordinator}: the base rate of {spec.label.column!r} among shared customers, two digits")
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
