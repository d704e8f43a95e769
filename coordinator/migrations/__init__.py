"""How the coordinator's database came to its present schema, by revisions that are run by :mod:`coordinator.store.schema`."""
