"""Settings of the whole suite: no test is timed, and what outlives every test is not searched for garbage again and again."""

from __future__ import annotations

import gc

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Leave modules and tests out of collections from here on: torch's graphs, full of cycles, set off very many."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
