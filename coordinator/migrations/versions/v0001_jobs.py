"""Jobs, decisions, steps, reports and inner products: the schema of version 0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table("schema", sa.Column("version", sa.BigInteger, primary_key=True))
    op.create_table(
        "jobs",
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("converged", sa.Boolean, nullable=False),
        sa.Column("offered", sa.Text, nullable=False),
        sa.Column("submitted", sa.String(40), nullable=False, index=True),
        sa.Column("updated", sa.String(40), nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.identity"), primary_key=True),
        sa.Column("party", sa.String(63), primary_key=True),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("decision", sa.String(8), nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
    )
    op.create_table(
        "steps",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.identity"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("round", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("coefficients", sa.Text, nullable=False),
        sa.Column("lookup_range", sa.Double, nullable=False),
        sa.Column("decrement", sa.Double, nullable=False),
    )
    _reports()


def _reports() -> None:
    op.create_table(
        "reports",
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("party", sa.String(63), primary_key=True),
        sa.Column("place", sa.BigInteger, nullable=False),
        sa.Column("transcript_sha256", sa.String(64), nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("bytes_sent", sa.BigInteger, nullable=False),
        sa.Column("bytes_received", sa.BigInteger, nullable=False),
        sa.Column("peak_rss_bytes", sa.BigInteger, nullable=False),
        sa.Column("set_size", sa.BigInteger, nullable=False),
        sa.Column("intersection", sa.BigInteger, nullable=False),
        sa.Column("rows_train", sa.BigInteger, nullable=False),
        sa.Column("rows_holdout", sa.BigInteger, nullable=False),
        sa.Column("columns", sa.BigInteger, nullable=False),
        sa.Column("base_rate", sa.String(12), nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job", "number"], ["steps.job", "steps.number"]),
    )
    op.create_table(
        "inner_products",
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("party", sa.String(63), primary_key=True),
        sa.Column("earlier", sa.BigInteger, primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
        sa.ForeignKeyConstraint(["job", "number", "party"], ["reports.job", "reports.number", "reports.party"]),
    )
