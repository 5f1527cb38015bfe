"""`make torture CYCLES=10 SEED=123 JOBS=2`: cycles with consecutive seeds, until one fails."""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue
from random import Random

from demo.project import ROOT
from tests.support.client_tables import BLYTZ_HIRE_TABLES, SHOP_TABLES, Table
from tests.support.run_folder import run_folder, short_folder
from tests.support.servers import DEBIAN_15
from tests.support.world import World, blytz_hire, shop
from tests.torture.cycle import Cycle, Outcome
from tests.torture.faults import FAULTS

KEPT = ROOT / "logs"
# The shop is smaller, and its cycles quicker.
SHOPS = 0.85
BEGINS = ("verified", "verified", "verified", "switched", "switched", "sample")


class Worlds:
    """The worlds of one job, each made when a seed draws it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[str, str, str], World] = {}

    def drawn(self, random: Random) -> tuple[World, tuple[Table, ...]]:
        """Draw a world, and what clients write in it."""
        pairs = [("18", "18")]
        if (DEBIAN_15 / "postgres").exists():
            pairs = [("15", "18"), ("18", "15"), ("18", "18")]
        is_shop = random.random() < SHOPS
        key = ("shop" if is_shop else "blytz_hire", *random.choice(pairs))
        if key not in self.made:
            folder = self.folder / "-".join(key)
            life = shop(folder) if is_shop else blytz_hire()
            self.made[key] = World(folder, life, key[1:])
        return self.made[key], SHOP_TABLES if is_shop else BLYTZ_HIRE_TABLES


def one_cycle(worlds: Worlds, seed: int, faults: str) -> Outcome:
    """Run the cycle of a seed, with the faults whose name has such a word."""
    world, tables = worlds.drawn(Random(seed))
    begins = BEGINS if tables is SHOP_TABLES else ("verified",)
    cycle = Cycle(world, tables, seed, begins)
    cycle.faults = tuple(one for one in FAULTS if faults in one.name)
    return cycle.run(KEPT)


def main() -> int:
    """Run cycles; print a line for each, and a summary."""
    parser = argparse.ArgumentParser(prog="tests.torture")
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--go-on", action="store_true", help="after a failure, too")
    parser.add_argument("--faults", default="", help="a word of their names, such as failover")
    given = parser.parse_args()
    seeds: SimpleQueue[int] = SimpleQueue()
    for seed in range(given.seed, given.seed + given.cycles):
        seeds.put(seed)
    outcomes: list[Outcome] = []

    def work(folder: Path) -> None:
        worlds = Worlds(folder)
        try:
            while True:
                outcome = one_cycle(worlds, seeds.get_nowait(), given.faults)
                outcomes.append(outcome)
                print(outcome.line(), *outcome.wrong, sep="\n    ", flush=True)
                if outcome.wrong and not given.go_on:
                    while True:
                        seeds.get_nowait()
        except Empty:
            pass
        finally:
            for world in worlds.made.values():
                world.close()

    with run_folder():
        jobs = [
            threading.Thread(target=work, args=(short_folder("torture-"),))
            for _ in range(given.jobs)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    return summary(outcomes)


def summary(outcomes: list[Outcome]) -> int:
    """Print what all cycles did, and how to repeat those that failed; give the exit code."""
    faults, writes = Counter[str](), Counter[str]()
    for outcome in outcomes:
        faults += outcome.faults
        writes += outcome.writes
    failed = [one for one in outcomes if one.wrong]
    median = statistics.median(one.seconds for one in outcomes) if outcomes else 0
    print(
        f"{len(outcomes)} cycles, median {median:.1f} s, {faults.total()} faults:",
        ", ".join(f"{count} {name}" for name, count in faults.most_common()),
    )
    print("writes:", ", ".join(f"{count:,} {what}" for what, count in sorted(writes.items())))
    for one in failed:
        print(f"failed: make torture CYCLES=1 SEED={one.seed}   ({one.folder})")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
