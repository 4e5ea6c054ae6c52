"""Studies: every pass at every target with every seed, each a cell with a file of its own, gathered into one table."""

from pkcompiler.driver.study.run import Studied, run_study

__all__ = ["Studied", "run_study"]
