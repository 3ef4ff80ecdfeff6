"""What a node's journal costs: rows a second as a node writes them, one flush, and the look at a million rows.

    python benchmarks/bench_journal.py [--rows 1000000] [--database postgresql+pg8000://…]

A round writes four rows (request, admitted, started, ended with the digests of 14 tensors) and flushes once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from polyclinic.federation.over_nats.identity import KeyPair, is_signed
from polyclinic.node.database import open_database
from polyclinic.node.journal import Journal
from polyclinic.node.journal_check import verify

_DIGEST = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
_ABOUT = {"researcher": "ada", "experiment": "heart-2026-11-24", "dataset": "ward"}


def one_round(journal: Journal, number: int, num_tensors: int = 14) -> None:
    """What a node writes for one round, without the flush."""
    about = {**_ABOUT, "request": f"heart-2026-11-24-{number}", "round": number}
    journal.write("request", **about, work="train", plan=_DIGEST, plan_name="HeartPlan", round_limit=100)
    journal.write("admitted", **about, approval="a1b2", plan=_DIGEST, policy=_DIGEST)
    journal.write("started", **about, work="train", plan=_DIGEST, sandbox="bubblewrap")
    left = [(f"model.layers.{n}.weight", (64, 64), "F32", 16384, _DIGEST) for n in range(num_tensors)]
    journal.write("ended", **about, outcome="done", work="train", seconds=1.5, rows=199, loss=True, left=left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", help="of a PostgreSQL server; default: SQLite in a new folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = open_database(options.database or folder / "node.sqlite")
        keys = KeyPair.generate()
        journal = Journal(engine, keys.sign, folder=folder)
        journal.note_key(keys.public_key)

        seconds = []
        for number in range(200):
            begin = time.perf_counter()
            one_round(journal, number)
            journal.flush()
            seconds.append(time.perf_counter() - begin)
        print(f"one round of 4 rows with its flush: median {statistics.median(seconds) * 1e3:.2f} ms, ", end="")
        print(f"95th percentile {sorted(seconds)[190] * 1e3:.2f} ms; {4 * 200 / sum(seconds):,.0f} rows a second")

        begin = time.perf_counter()
        for number in range(500):
            one_round(journal, number)
        journal.flush()
        print(f"2,000 rows in one flush: {2000 / (time.perf_counter() - begin):,.0f} rows a second")

        written = 2800
        while written < options.rows:
            for number in range(5000):
                one_round(journal, number, num_tensors=1)
            journal.flush()
            written += 20_000
        journal.sign()
        begin = time.perf_counter()
        verdict = verify(engine, folder=folder, is_signed=is_signed, key=keys.public_key)
        assert verdict.row is None, verdict.problem
        print(f"verify {verdict.rows:,} rows: {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
