"""The tables of the node's database, ``state.db``; :mod:`node.runtime.store` makes those that are missing, reads and writes them.

A table that is there is not altered.  Times are text, RFC 3339.
"""

from __future__ import annotations

import sqlalchemy as sa

META = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    META,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(128), nullable=False, default=""),
    sa.Column("received", sa.String(40), nullable=False),
    sa.Column("updated", sa.String(40), nullable=False),
)
REQUESTS = sa.Table(  # what a person asked for at the command line; the serving node signs and sends it
    "requests",
    META,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("decision", sa.String(8), nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
)
DECISIONS = sa.Table(  # signed statements, own and the peer's
    "decisions",
    META,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("party", sa.String(64), primary_key=True),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("signature", sa.String(128), nullable=False),
)
STEPS = sa.Table(
    "steps",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(64), nullable=False, index=True),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),  # started, done, failed
    sa.Column("code", sa.String(128), nullable=False, default=""),
    sa.Column("report", sa.LargeBinary, nullable=False, default=b""),  # the serialised StepDone, to be sent again after a reconnect
    sa.Column("started", sa.String(40), nullable=False),
    sa.Column("ended", sa.String(40), nullable=False, default=""),
    sa.UniqueConstraint("job", "step", "round", "attempt"),
)
DISCLOSURES = sa.Table(
    "disclosures",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(64), nullable=False, index=True),
    sa.Column("step", sa.String(16), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("what", sa.String(64), nullable=False),
    sa.Column("to", sa.String(64), nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("clause", sa.String(128), nullable=False),
    sa.Column("value", sa.Text, nullable=False, default=""),
)
QUERIES = sa.Table(  # answered, or to be answered, of a published filter
    "filter_queries",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("asker", sa.String(256), nullable=False, index=True),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("time", sa.String(40), nullable=False),
)
