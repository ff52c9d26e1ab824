"""A thousand malformed inputs over all doors of the package: no traceback, no hang, nothing silently wrong.

Each case has 20 s and 3 GiB, measured from outside: a process that takes more is ended, and another one goes on
with the next case. Cases are numbered; a number gives the same case always. The whole takes some two minutes::

    python tests/fuzz/fuzzing.py                 cases 0 to 999, with a count for each door
    python tests/fuzz/fuzzing.py 17 18           these cases, in words
"""

import collections
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["CASES", "FAULTS", "outcomes"]

CASES = 1000
SECONDS, BYTES = 20.0, 3 * 2**30
LONGEST_START = 300.0  # seconds: libraries load, and a program compiles
FAULTS = ("traceback", "hang", "memory", "crash", "wrong")
LOOK = 0.02  # seconds between two looks at the memory


class Worker:
    """A process that tries cases."""

    def __init__(self, doors: Iterable[str] = ()) -> None:
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), *doors]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        ready = self.answer(LONGEST_START)
        if "ready" not in ready:
            raise RuntimeError(f"expected a worker that is ready, got {ready}")

    def ask(self, number: int) -> dict[str, Any]:
        self.process.stdin.write(f"{number}\n".encode())
        return {"number": number} | self.answer(SECONDS)

    def answer(self, seconds: float) -> dict[str, Any]:
        """One line of the process; or what it did instead, and it is ended."""
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            if select.select([self.process.stdout], [], [], LOOK)[0]:
                piece = self.process.stdout.read(65536)
                if not piece:
                    return {"result": "crash", "words": f"ended with {self.process.wait()}"}
                line += piece
            elif time.monotonic() > end:
                return self.ended("hang")
            elif self.memory() > BYTES:
                return self.ended("memory")
        return json.loads(line)

    def memory(self) -> int:
        try:
            resident = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it ends, or this is no Linux
            return 0
        return resident * os.sysconf("SC_PAGE_SIZE")

    def ended(self, result: str) -> dict[str, Any]:
        self.close()
        return {"result": result, "words": ""}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def outcomes(numbers: Iterable[int], doors: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
    """Try cases, and yield what came of each: its number, door, kind of damage, result and words.

    Args:
        numbers: Which cases.
        doors: Doors that they are of, if not all: others need not get ready.
    """
    worker = None
    try:
        for number in numbers:
            worker = worker or Worker(doors)
            outcome = worker.ask(number)
            if outcome["result"] in ("hang", "memory", "crash"):
                worker.close()
                worker = None
            yield outcome
    finally:
        if worker is not None:
            worker.close()


def main() -> int:
    chosen = [int(word) for word in sys.argv[1:]]
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    began = time.monotonic()
    for outcome in outcomes(chosen or range(CASES)):
        counts[outcome.get("door", "?")][outcome["result"]] += 1
        if chosen or outcome["result"] in (*FAULTS, "nameless"):
            print(json.dumps(outcome), flush=True)
    total = collections.Counter()
    for door, found in counts.items():
        print(f"{door:<16} {dict(found)}")
        total += found
    print(f"{sum(total.values())} cases in {time.monotonic() - began:.0f} s: {dict(total)}")
    return int(any(total[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
