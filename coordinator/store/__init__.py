"""The coordinator's state in one database: SQLite by default, PostgreSQL where two coordinators share it or SQLite is outgrown.

::

    tables.py    the tables                  engine.py   URLs, drivers, what an error may say
    jobs.py      jobs as objects             schema.py   revisions, upgrades
    log.py       the log of a coordinator that may be taken over from
"""

from coordinator.store.jobs import Fence, Store

__all__ = ["Fence", "Store"]
