"""The commented configuration and policy that ``isthmus-node init`` writes: both load as they are."""

from __future__ import annotations

import json
from pathlib import Path

NODE_TOML = """\
# Configuration of an isthmus node.  Relative paths start at this file's folder.  Unknown keys are refused.

[node]
name = "{name}"
role = "{role}"                   # "bank" or "platform"
{listen}
{address}
keys = "keys"                     # this node's private keys, encrypted: readable by its user alone
{key_file}
partners = "partners"             # *.partner.json, written by `isthmus-node partner add FILE`
state = "state"                   # database, job files and the audit log
policy = "policy.toml"

[coordinator]
partner = "coordinator"           # the name in the coordinator's partner file

# Where neither this node nor a partner has an address, steps go, sealed, through the coordinator's relay.
#
# [relay]
# use = "auto"                    # "never" refuses
# always_with = ["shop"]          # partners with whom every step takes it, whatever the addresses say; they name this node too

[engine]
kind = "processes"                # worker processes on this machine; or "inline", or "dask" (a cluster: see the bank's guide)
# workers = 4                     # absent: all cores but one

# [metrics]                       # figures and health over plain HTTP, for monitoring on this machine; absent: no such port
# listen = "127.0.0.1:9464"

# A data set.  Only the columns declared here are offered to jobs; every other column of the source stays unread.
#
# [[dataset]]
# name = "cards"
# source = "csv"                  # csv | parquet | sqlite | postgresql
# path = "cards.csv"              # csv, parquet and sqlite
# delimiter = ","                 # csv: one of , ; | or a tab
# uri = "postgresql://reader@db.example/cards"      # postgresql; the password is better kept in ~/.pgpass
# query = "select * from customers"                 # sqlite and postgresql; read-only
# identifier = "customer_id"
# normalise = "casefold"          # exact | casefold | digits | email | sha256 | phone-e164:CC; must equal the job's
# duplicates = "refuse"           # rows that repeat an identifier: refuse the data set, or keep the "first" of each
#
# [dataset.keys.phone]            # a column that jobs may find customers by, under the name that the partner uses as well
# column = "mobile"
# normalise = "phone-e164:DE"
# missing = "refuse"              # or "skip": who lacks it is not looked for by it
# duplicates = "refuse"           # a value that several customers have: or only the "first" is found by it, or "none" is
#
# [dataset.columns.LIMIT_BAL]
# kind = "number"
# missing = "refuse"              # or "mean", "median" (of the training rows), or a number in quotes: "0"
#
# [dataset.columns.REGION]
# kind = "category"
# missing = "refuse"              # or the level that an empty value counts as: "unknown"
# encoding = "one-hot"            # or "woe" (weight of evidence), where this node holds the label
#
# [dataset.columns.default]
# kind = "label"                  # two values
# positive = "1"                  # the value that counts as 1 (when absent: 1 or true)
"""

LISTEN_SAMPLE = '# listen = "127.0.0.1:7443"     # absent: this node dials out only and opens no port'
ADDRESS_SAMPLE = '# address = "bank.example:7443" # how partners reach this node; absent: they cannot dial it'

KEY_FILE_SAMPLE = (
    '# key_file = "secret.key"         # what opens the keys, unless a passphrase does; absent: secret.key beside keys'
)

POLICY_TOML = """\
# What jobs may ask of this node.  A job that breaks a clause is refused before anyone is asked; one that keeps them all still
# waits for `isthmus-node approve JOB`, unless an [[auto_approve]] rule at the end matches.  A clause left out has its strictest
# value.

[partners]
allow = "added"                   # every partner whose file was added here, or a list of names: ["platform"]

[datasets]
offer = ["label_holder", "feature_holder"]          # roles in which any configured data set may serve

# [[dataset]]                     # a narrower rule for one data set
# name = "cards"
# roles = ["label_holder"]
# partners = ["platform"]

[limits]
minimum_intersection = 1000       # smallest number of shared customers a job may accept
key_bits_min = 2048               # below 3072 a warning is shown
key_kinds = ["standard"]          # "short-order" is quicker and rests on one assumption more (docs/threat-model.md)
rounds_max = 16                   # each round discloses a few inner products (never data)
bands_max = 64                    # score bands of the evaluation
features_max = 1024

[disclose]                        # the evaluation's aggregates (AUC, KS, gains by decile): may a job send them to
aggregates_to_feature_holder = true
aggregates_to_coordinator = true

[count]                           # jobs that tell how many customers are shared, and nothing else
allow = false
partner_learns = false            # may the partner be the one that learns the exact number, however small?
step = 100                        # what is told onwards is rounded down to a multiple of the job's step: at least this
per_period = 4                    # attempts with one partner within `period_days`: the differences of many would tell of single
period_days = 30                  # customers

[links]
patience = 600                    # seconds a step waits for the partner's node, not up yet or cut off, before it is given up

[retention]                       # what `isthmus-audit replay` needs of a job: data set, received messages, sealed seed
days = 90                         # kept so long after its end; or keep = "always", or keep = "none" (as when left out)

# [[filter]]                      # aligning by a published filter: allowed with the partner and for the data set named, alone
# partner = "platform"
# dataset = "cards"
# role = "querier"                # or "publisher": then also queries = 2000000 and period_days = 30, what the partner may ask
# reuse_days = 30                 # how long a key and what was masked under it serve further jobs; 0: each job starts afresh

# [[auto_approve]]                # approve without a person when all of it matches
# name = "nightly"
# partner = "platform"
# dataset = "cards"
# coordinator = "coordinator"
# kinds = ["train"]               # add "count" to approve those as well
"""


def node_toml(*, name: str, role: str, listen: str | None, address: str | None, key_file: Path | None = None) -> str:
    """The configuration of a new node; the arguments were validated before."""
    return NODE_TOML.format(
        name=name,
        role=role,
        listen=LISTEN_SAMPLE if listen is None else f'listen = "{listen}"',
        address=ADDRESS_SAMPLE if address is None else f'address = "{address}"',
        key_file=KEY_FILE_SAMPLE if key_file is None else f"key_file = {json.dumps(str(key_file.absolute()))}",
    )
