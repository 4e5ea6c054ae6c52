"""From a model to its path graph: export, equal rewritings, lift."""
