"""Commands about jobs: ``serve``, ``jobs``, ``show``, ``approve``, ``reject``, ``model``."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console
from rich.table import Table

from audit.console import emit
from audit.spec import JobSpec, parse_spec
from node.admission import check_spec
from node.commands import NodeContext, json_option, pass_node
from node.commands.wording import accuracy_line, counted, describe_spec, metrics_line, will_disclose
from node.config import NodeConfig
from node.errors import IsthmusError, UsageError
from node.identity import known_partners, own_identity
from node.policy import load_policy
from node.runtime.members import members_writer
from node.runtime.store import JobRow, Store, is_served
from operations.commands import serve_logged, serve_options
from operations.logs import Format, Notices
from operations.stopping import Stop


def register(group: click.Group) -> None:
    """Add the commands of this module to the group."""
    for command in (serve_command, jobs, show, approve, reject, model):
        group.add_command(command)


@contextlib.contextmanager
def _store(config: NodeConfig, state_key: bytes | None = None) -> Iterator[Store]:
    store = Store(config.state_folder, state_key)
    try:
        yield store
    finally:
        store.close()


# --- serve ------------------------------------------------------------------------------------------------------------------------


@click.command("serve")
@serve_options
@json_option
@pass_node
def serve_command(node: NodeContext, log_format: Format | None, log_level: str, grace: int | None) -> int:
    """Serve this node until it is stopped (Ctrl-C or SIGTERM).

    It keeps one stream to the coordinator, listens for the partner only where node.toml names `listen`, and speaks nothing but
    TLS with pinned certificates.  Jobs wait until a person approves them, or a rule of the policy does.  Asked to stop, it begins
    no further step and lets a running one end for `--grace` seconds (`stop_grace` in node.toml); asked twice, it stops at once.

    \b
    Example:
      isthmus-node --config bank/node.toml serve
      isthmus-node --config bank/node.toml serve --log-format json --log-level debug
    """

    def run(stop: Stop) -> None:
        from node.runtime.serve import serve  # here, so that other commands start quickly

        config = node.config()
        seconds = config.node.stop_grace if grace is None else grace
        serve(config, notify=Notices("node"), stop=stop.asked, at_once=stop.at_once, grace=seconds)

    return serve_logged(run, component="node", format=log_format or ("json" if node.as_json else "text"), level=log_level)


# --- jobs -------------------------------------------------------------------------------------------------------------------------


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "job", overflow="fold")
    return table


def _print_table(console: Console, table: Table) -> None:
    """One line a row where the output is no terminal: it is read by `grep` and the like."""
    if not console.is_terminal:
        console.width = 400
    console.print(table)


def _spec(row: JobRow) -> JobSpec:
    return parse_spec(row.spec.encode())


def _summary(config: NodeConfig, store: Store, row: JobRow) -> dict[str, Any]:
    spec = _spec(row)
    mine = config.name in (spec.label_holder.name, spec.feature_holder.name)
    request = store.request_of(row.job)
    steps = store.steps(row.job)
    return {
        "job": row.job,
        "title": spec.title,
        "state": row.state,
        "code": row.code,
        "role": ("label_holder" if spec.label_holder.name == config.name else "feature_holder") if mine else "",
        "partner": spec.peer_of(config.name).name if mine else "",
        "dataset": spec.party(config.name).dataset if mine else "",
        "asked": request.decision if request and row.state == "waiting" else "",
        "step": steps[-1].step if steps else "",
        "round": steps[-1].round if steps else 0,
        "received": row.received,
        "updated": row.updated,
    }


@click.command()
@json_option
@pass_node
def jobs(node: NodeContext) -> None:
    """List the jobs that were offered to this node.

    \b
    Example:
      isthmus-node jobs
    """
    config = node.config()
    with _store(config) as store:
        rows = [_summary(config, store, row) for row in store.jobs()]

    def human(console: Console) -> None:
        if not rows:
            console.print("No job was offered to this node yet.")
            return
        table = _table("job", "state", "with", "data set", "role", "step", "received", "title")
        for row in rows:
            state = (
                row["state"] + (f" [{row['code']}]" if row["code"] else "") + (f" (asked: {row['asked']})" if row["asked"] else "")
            )
            step = row["step"] + (f" {row['round']}" if row["round"] else "")
            role = row["role"].replace("_", " ")
            table.add_row(row["job"][:12], state, row["partner"], row["dataset"], role, step, row["received"], row["title"])
        _print_table(console, table)

    emit({"jobs": rows}, as_json=node.as_json, human=human)


# --- show -------------------------------------------------------------------------------------------------------------------------


def _opinion(config: NodeConfig, spec: JobSpec) -> dict[str, Any]:
    """What the policy says of the job today."""
    try:
        found = check_spec(spec, config=config, policy=load_policy(config.policy_path), partners=known_partners(config))
    except IsthmusError as error:
        return {"allowed": False, "code": error.code, "reason": error.message, "remedy": error.remedy, "warnings": []}
    return {"allowed": True, "warnings": list(found.warnings), "rule": found.auto_rule or ""}


def _details(config: NodeConfig, store: Store, row: JobRow) -> dict[str, Any]:
    spec = _spec(row)
    request = store.request_of(row.job)
    decisions = {party: json.loads(signed.statement) for party, signed in store.decisions(row.job).items()}
    files = store.files(row.job)
    return {
        **_summary(config, store, row),
        "spec": spec.model_dump(mode="json"),
        "policy": _opinion(config, spec),
        "will_disclose": will_disclose(spec, config.name),
        "decisions": decisions,
        "reason": request.reason if request else "",
        "steps": [
            {
                "step": s.step,
                "round": s.round,
                "attempt": s.attempt,
                "state": s.state,
                "code": s.code,
                "started": s.started,
                "ended": s.ended,
            }
            for s in store.steps(row.job)
        ],
        "disclosures": store.disclosures(row.job),
        "metrics": json.loads(files.read("metrics.json")) if files.has("metrics.json") else None,
        "count": json.loads(files.read("count.json")) if files.has("count.json") else None,
        "model": files.has("model.json"),
    }


@click.command()
@click.argument("job")
@json_option
@pass_node
def show(node: NodeContext, job: str) -> None:
    """Show a job in words: who, which columns, what would be disclosed to whom, what the policy says, how far it is.

    JOB is the job's hash or the first digits of it.

    \b
    Example:
      isthmus-node show 3fa2c1
    """
    config = node.config()
    with _store(config) as store:
        row = store.resolve(job)
        data, spec = _details(config, store, row), _spec(row)

    def human(console: Console) -> None:
        console.print(f"job {row.job}")
        console.print(f"state: {row.state}" + (f" [{row.code}]" if row.code else ""))
        for line in describe_spec(spec, config.name):
            console.print(line)
        _print_opinion(console, data["policy"])
        console.print("what this node would disclose:")
        for line in data["will_disclose"]:
            console.print(f"  - {line}")
        for party, decision in data["decisions"].items():
            console.print(f"decision of {party}: {decision['decision']} by {decision['by']} at {decision['time']}")
        if data["reason"]:
            console.print(f"reason given here: {data['reason']}")
        _print_course(console, data)
        if row.state == "waiting":
            console.print(f"to decide: isthmus-node approve {row.job[:12]}   or   isthmus-node reject {row.job[:12]}")

    emit(data, as_json=node.as_json, human=human)


def _print_opinion(console: Console, opinion: dict[str, Any]) -> None:
    if not opinion["allowed"]:
        console.print(f"policy: does not allow it: {opinion['reason']} [{opinion['code']}]")
    else:
        console.print("policy: allows it" + (f", approved by the rule {opinion['rule']!r}" if opinion["rule"] else ""))
    for warning in opinion["warnings"]:
        console.print(f"  warning: {warning}")


def _print_course(console: Console, data: dict[str, Any]) -> None:
    for step in data["steps"]:
        name = step["step"] + (f" {step['round']}" if step["round"] else "")
        again = f", attempt {step['attempt']}" if step["attempt"] else ""
        code = f" [{step['code']}]" if step["code"] else ""
        console.print(f"step {name}{again}: {step['state']}{code}")
    if data["disclosures"]:
        console.print("what this node disclosed:")
    for item in data["disclosures"]:
        name = item["step"] + (f" {item['round']}" if item["round"] else "")
        console.print(f"  - {name}: {item['what'].replace('_', ' ')}, {item['count']} to {item['to']} ({item['clause']})")
    if data["count"]:
        console.print(f"shared customers: {counted(data['count'])}")
    if data["metrics"]:
        console.print(metrics_line(data["metrics"]))


# --- approve, reject ----------------------------------------------------------------------------------------------------


def _person(by: str | None) -> str:
    if by is not None:
        return by.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise UsageError(
            "job.who", "It is not known who you are on this machine.", remedy="Name yourself with --by NAME."
        ) from None


def _decide(node: NodeContext, job: str, *, decision: str, by: str | None, reason: str = "") -> None:
    config, person = node.config(), _person(by)
    if not 1 <= len(person) <= 200 or not person.isprintable():
        raise UsageError(
            "job.who", "The name given with --by is empty, longer than 200 characters or not printable.", remedy="Give a name."
        )
    with _store(config) as store:
        row = store.resolve(job)
        if decision == "approve":
            check_spec(_spec(row), config=config, policy=load_policy(config.policy_path), partners=known_partners(config))
        store.request(row.job, decision=decision, by=person, reason=reason)
    word = {"approve": "approval", "reject": "rejection"}[decision]

    served = is_served(config.state_folder)

    def human(console: Console) -> None:
        console.print(f"{word} of job {row.job[:12]} by {person} is noted; the serving node signs it and sends it.")
        if not served:
            console.print("No process serves this node at present: start `isthmus-node serve`, and it will.")

    emit({"job": row.job, "decision": decision, "by": person, "served": served}, as_json=node.as_json, human=human)


@click.command()
@click.argument("job")
@click.option("--by", metavar="NAME", help="Who approves; the user's login name if absent.")
@json_option
@pass_node
def approve(node: NodeContext, job: str, by: str | None) -> None:
    """Approve a job that waits.  The approval is signed over the job's hash: the coordinator cannot change what you approved.

    \b
    Example:
      isthmus-node approve 3fa2c1 --by "Ana Ruiz"
    """
    _decide(node, job, decision="approve", by=by)


@click.command()
@click.argument("job")
@click.option("--by", metavar="NAME", help="Who rejects; the user's login name if absent.")
@click.option("--reason", metavar="TEXT", default="", help="Why; stays on this node.")
@json_option
@pass_node
def reject(node: NodeContext, job: str, by: str | None, reason: str) -> None:
    """Reject a job that waits.

    \b
    Example:
      isthmus-node reject 3fa2c1 --reason "wrong label column"
    """
    _decide(node, job, decision="reject", by=by, reason=reason)


# --- model ----------------------------------------------------------------------------------------------------


@click.command()
@click.argument("job")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the model document (JSON) there.")
@click.option(
    "--members",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write this node's own shared customers there (identifier, position, split): Parquet where the name ends in .parquet, else"
    " CSV.  Personal data: readable by you alone.",
)
@json_option
@pass_node
def model(node: NodeContext, job: str, output: Path | None, members: Path | None) -> None:
    """Show or save this node's half of a finished model, in original units.

    \b
    Examples:
      isthmus-node model 3fa2c1
      isthmus-node model 3fa2c1 --output model.json --members shared.csv
      isthmus-node model 3fa2c1 --members shared.parquet
    """
    config = node.config()
    with _store(config, None if members is None else own_identity(config).state_key) as store:
        row = store.resolve(job)
        files = store.files(row.job)
        if not files.has("model.json"):
            raise UsageError(
                "job.no_model",
                f"Job {row.job[:12]} has no model on this node: it is {row.state}.",
                remedy="A model is there once the step `finish` is done; `isthmus-node show JOB` tells how far the job is.",
            )
        document = json.loads(files.read("model.json"))
        if output is not None:
            text = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
            _write_private(output, lambda file: file.write(text))
        if members is not None:
            aligned, write = files.read_arrays("align.npz"), members_writer(members)
            _write_private(members, lambda file: write(aligned, file))

    def human(console: Console) -> None:
        for path, what in ((output, "the model document"), (members, "the shared customers")):
            if path is not None:
                console.print(f"wrote {what} to {path}")
        if output is None and members is None:
            _print_model(console, document)

    emit(document, as_json=node.as_json, human=human)


def _print_model(console: Console, document: dict[str, Any]) -> None:
    console.print(f"job {document['job'][:12]}, {document['party']}'s half after {document['rounds']} rounds")
    if document["intercept"] is not None:
        console.print(f"intercept {document['intercept']:+.6g}   (base rate {document['base_rate']})")
    table = _table("column", "weight per unit", "centre", "low", "high")
    for column in document["columns"]:
        numbers = [f"{column[key]:+.6g}" for key in ("weight", "centre", "low", "high")]
        table.add_row(column["name"], *numbers)
    _print_table(console, table)
    if line := accuracy_line(document.get("accuracy")):
        console.print(line)


def _write_private(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o600)  # the mode above is for a new file alone
            write(file)
    except OSError as error:
        raise UsageError(
            "file.unwritable", f"The file {path} cannot be written: {error.strerror}.", remedy="Name another file."
        ) from None
