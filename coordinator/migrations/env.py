"""Alembic's entry: runs the revisions on the connection, and in the transaction, that :mod:`coordinator.store.schema` opened."""

import logging

from alembic import context

from coordinator.store.tables import Base

logging.getLogger("alembic").setLevel(logging.WARNING)

# SQLite alters little: a table is then made anew and its rows are copied (batch mode).
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
