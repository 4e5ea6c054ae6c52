"""Attacks on what is promised of files, and a table of what they have come to. Exits with 1 where a promise was broken.

    python -m benchmarks.attack                       # all of them, about half an hour on one core
    python -m benchmarks.attack --count 10 files kills

``--count``: kills of each kind (of workers half), places of each file, tampered artifacts and checkpoints of training twice;
a tenth of it in full disks; 200 times in command lines. Every attack makes a folder of its own, and removes it. Needs
``fork`` (Linux).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: no pool survives a fork

from benchmarks.attack import arguments, artifacts, checkpoints, files, kills
from benchmarks.attack.processes import ONE, command, home, run, warm
from benchmarks.attack.tally import Tally, shown

ATTACKS: dict[str, Callable[[int, int], Iterator[Tally]]] = {
    "files": files.attacks,
    "kills": kills.attacks,
    "checkpoints": checkpoints.attacks,
    "arguments": arguments.attacks,
    "artifacts": lambda count, seed: on_artifacts(count, seed),
}


def on_artifacts(count: int, seed: int) -> Iterator[Tally]:
    """The attacks of :mod:`~benchmarks.attack.artifacts` on one artifact, in this process."""
    with home() as folder, tempfile.TemporaryDirectory() as work:
        assert (made := run(command(*ONE, "-o", "old"))).code == 0, made.err
        yield from artifacts.attacks(folder / "old", Path(work), count, seed)


def short(_: int, seed: int) -> Iterator[Tally]:
    """Some of what needs processes: the tests do the rest in their own."""
    yield kills.two_stages(2, seed)
    yield kills.of_study(1, seed)
    yield kills.together(1, seed)
    yield checkpoints.trainings(25, seed)
    yield checkpoints.states(4, seed)
    yield checkpoints.cells(3, seed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"of {', '.join(ATTACKS)}; all of them by default")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few of those that need processes, in seconds: what the tests run")
    given = parser.parse_args()
    warm()
    tallies = []
    chosen = [short] if given.short else [ATTACKS[name] for name in given.attacks or ATTACKS]
    for attacks in chosen:
        for tally in attacks(given.count, given.seed):
            tallies.append(tally)
            print(f"{tally.attack}: {tally.tried} tried, {tally.faults} faults", file=sys.stderr, flush=True)
    print(shown(tallies))
    return int(any(tally.faults for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
