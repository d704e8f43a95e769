"""Who leads, and the log beside the leader's own folder: what a second coordinator needs to take over."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, put the one row of ``leader`` there, and tell version 0.1.0 to keep off."""
    leader = op.create_table(
        "leader",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("log_key", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("expires", sa.DateTime(timezone=True), nullable=False),
    )
    never = sa.func.current_timestamp()
    op.execute(leader.insert().values(id=1, epoch=0, name="", log_key="", holder="", expires=never))
    op.create_table(
        "log_entries",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("line", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "witness_notes",
        sa.Column("log", sa.String(63), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=False),
    )
    schema = sa.table("schema", sa.column("version", sa.BigInteger))
    op.execute(schema.delete())
    op.execute(schema.insert().values(version=2))
