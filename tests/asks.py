"""The jobs that tests ask for: what one of them may say, those that several tests run, and the data and the specification of each.

:mod:`tests.joint` runs them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audit.spec import JobSpec
from coordinator.demo import parties
from coordinator.demo.datasets import DemoData, UserFiles, open_user_files
from coordinator.submit import build_spec

SHARED = 170
"""Customers that both sides have, in every ask's data."""


@dataclass(frozen=True)
class Ask:
    """One job.

    Attributes:
        ending: "run" to its end; "reject" by the platform; "cancel" before anyone approved; "stop" the platform's node in the
            first message of ``stop_at`` and start it again, so that the step is restarted, ``stops`` times; "kill" its process
            there.
        reachable: the nodes that listen; none: everything takes the relay.
        method: how customers are matched.
        minimum: shared customers asked for; above SHARED the alignment fails.
        publisher: whose set is published as a filter, kept from job to job; by default the alignment is the curve's.
        train_rows: rows to train on at most; 0 for all.
    """

    label_holder: str = "bank"
    holdout: str = "0.3"
    key_bits: int = 512
    rounds: int = 2
    minimum: int = 100
    train_rows: int = 0
    to_feature_holder: bool = True
    to_coordinator: bool = True
    ending: str = "run"
    stop_at: str = "MaskedGradients"
    stops: int = 1
    numbers_only: bool = False
    reachable: tuple[str, ...] = ("platform",)
    method: str = "auto"
    publisher: str = ""
    keys: tuple[str, ...] = ()
    """The keys of :data:`KEYS` that customers are found by, in this order; the world offers them where its first job has some."""
    count: str = ""
    """A count with this learner, instead of a training."""
    step: int = 10


KEYS = {"phone": "phone-e164:DE", "email": "email"}
"""Both sides' customers may lack either, and customers 1 and 2 have swapped their e-mail addresses at the bank."""
PLAIN = Ask(method="ot")
"""Bank holds the label; customers are matched by oblivious transfer; categories become one-hot columns; aggregates go to both."""
PLATFORM = Ask(label_holder="platform", holdout="0", key_bits=768, to_feature_holder=False, to_coordinator=False)
"""The platform holds the label, no evaluation, other layouts."""
LONG = Ask(rounds=7, to_feature_holder=False, numbers_only=True)
"""Masks of more than one group in every layout; aggregates go to the coordinator alone."""
QUIET = Ask(to_coordinator=False, train_rows=100)
"""Aggregates go to the feature holder alone; trained on a sample of some 120 rows."""
REJECTED = Ask(ending="reject")
CANCELLED = Ask(ending="cancel")
TOO_FEW = Ask(minimum=SHARED + 1, method="ot")
"""The alignment runs and fails at its end: fewer shared customers than the job asks for."""
RESTARTED = Ask(ending="stop")
"""The platform's node is stopped within a round and started again: the step is repeated as the next attempt."""
KILLED = Ask(ending="kill", stop_at="DotOperands")
"""The platform's node is a process of its own, killed within a round: nothing of the attempt's end is in its log."""
REPREPARED = Ask(ending="stop", stop_at="MaskedWeights", stops=3, holdout="0")
"""Stopped so often in its second round that no mask is left, and prepared a second time."""
REPREPARED_LATE = Ask(ending="stop", stop_at="FirstResiduals", stops=2, rounds=2, holdout="0")
"""Stopped twice in its first round, so that the second finds no mask and is prepared for."""
FILTERED = Ask(publisher="feature_holder", rounds=1, holdout="0")
"""Aligned by a published filter; the second such job is aligned by the first one's."""
FILTERED_FEW = Ask(publisher="feature_holder", rounds=1, holdout="0", minimum=SHARED + 1)
SEVERAL_FILTERED = (FILTERED, FILTERED_FEW, FILTERED)
"""Between the same parties: published as a whole, then used, with a failure between."""
KEYED = Ask(rounds=1, keys=("phone", "email"))
"""Found by telephone, then by e-mail; the nodes keep what a replay takes."""
COUNTED = Ask(count="label_holder", minimum=110)
TOLD_LITTLE = Ask(count="feature_holder", minimum=160, step=20, keys=("email",), to_feature_holder=False)
"""Counted by e-mail, below the minimum; the coordinator alone is told, and only that."""
RESTARTED_EARLY = Ask(ending="stop", stop_at="RowProducts", to_coordinator=False)


def contact(side: str, number: int) -> tuple[str, str]:
    """Telephone number and e-mail address of a customer as one side has them; empty where it has none."""
    phone = f"+49 30 {100000 + number}" if side == "bank" else f"030/{100000 + number}"
    swapped = {1: 2, 2: 1}.get(number, number) if side == "bank" else number
    email = f"A{swapped}@example.org" if side == "bank" else f"a{swapped}@EXAMPLE.org"
    lacks = (number % 5 == 0, number % 7 == 0) if side == "bank" else (number % 4 == 0, number % 6 == 0)
    return "" if lacks[0] else phone, "" if lacks[1] else email


def data_for(ask: Ask, folder: Path) -> DemoData:
    """Both sides' files, written to ``folder``: SHARED customers of both and 40 more of each."""
    rng = random.Random(5)
    hidden = [rng.gauss(0, 1) for _ in range(SHARED)]
    late = [int(rng.random() < 1 / (1 + np.exp(1 - 1.5 * value))) for value in hidden]
    label = [f",{value}" for value in late] + [f",{i % 2}" for i in range(40)]
    mine, its = ask.label_holder == "bank", ask.label_holder == "platform"
    bank = ["id,limit,age,region" + (",late" if mine else "")]
    shop = ["user,spend,visits" + (",late" if its else "")]
    for i in range(SHARED + 40):
        value = hidden[i] if i < SHARED else rng.gauss(0, 1)
        region = "x" if ask.numbers_only else ("east", "north", "south")[i % 3]
        where = i if ask.numbers_only else region
        bank.append(f"C{i:04d},{1000 + 100 * rng.gauss(0, 1):.2f},{rng.randint(18, 80)},{where}{label[i] if mine else ''}")
        who = f"c{i:04d}" if i < SHARED else f"d{i:04d}"
        shop.append(f"{who},{200 * abs(value):.2f},{value + rng.gauss(0, 1):.3f}{label[i] if its else ''}")
    if ask.keys:
        for side, lines in (("bank", bank), ("platform", shop)):
            lines[0] += ",phone,email"
            for i in range(SHARED + 40):
                lines[i + 1] += ",".join(("", *contact(side, i if i < SHARED or side == "bank" else 1000 + i)))
    (folder / "cards.csv").write_text("\n".join(bank) + "\n")
    (folder / "shoppers.csv").write_text("\n".join(shop) + "\n")
    files = UserFiles(bank=folder / "cards.csv", bank_id="id", platform=folder / "shoppers.csv", platform_id="user", label="late")
    return open_user_files(files, label_holder=ask.label_holder, normalise="casefold", minimum=100)  # type: ignore[arg-type]


def spec_for(ask: Ask, data: DemoData, config: Any) -> JobSpec:
    """The job as an operator with the coordinator's configuration ``config`` would submit it."""
    document = parties.job_document(
        data, rounds=ask.rounds, l2="0.001", holdout=ask.holdout, key_bits=ask.key_bits, train_rows=ask.train_rows
    )
    document["align"] |= {"minimum": ask.minimum, "method": ask.method}
    if ask.keys:
        document["align"] = {"minimum": ask.minimum, "keys": [{"name": key, "normalise": KEYS[key]} for key in ask.keys]}
    if ask.publisher:
        document["align"] |= {"method": "filter", "publisher": ask.publisher}
    for side in ("label_holder", "feature_holder"):
        named = document[side]["features"]
        document[side]["features"] = [] if ask.count else [name for name in named if name not in KEYS]
    if ask.count:
        told = {"tell_partner": ask.to_feature_holder, "tell_coordinator": ask.to_coordinator}
        document = {key: document[key] for key in ("title", "label_holder", "feature_holder", "align")}
        document |= {"kind": "count", "count": {"learner": ask.count, "step": ask.step, **told}}
        return build_spec(document, coordinator="coordinator", partners=config.partners())
    document["model"]["tolerance"] = "0.000000001"
    document["disclose"] = {
        "aggregates_to_feature_holder": ask.to_feature_holder,
        "aggregates_to_coordinator": ask.to_coordinator,
    }
    return build_spec(document, coordinator="coordinator", partners=config.partners())
