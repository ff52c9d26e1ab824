"""Two processes at once on one output: twenty pairs for each command, and nothing is corrupt, mixed or left.

The two have different seeds, so that a mix can be told; some have the same, and some replace what is there. They begin
together, or one as late as when the other is about to end. The result is exactly that of one of the two run alone, and
the loser says in one line which output it could not have, or finds the same run finished.
"""

import os
import shutil
import subprocess
import time
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from commands import COMMANDS, SEEDS, Process, Said, begin, facts_of, make_inputs, state_of, words_of
from places import COMMAND

PAIRS, STARTED = 18, 2  # in processes that wait, and from the shell
AHEAD = 0.03  # of the time at which both begin [s]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    before = state_of(folder)
    yield folder
    assert state_of(folder) == before


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    numbers = tmp_path_factory.mktemp("numbers")
    processes = [Process(numbers), Process(numbers)]
    yield processes
    for one in processes:
        one.close()


class Alone(NamedTuple):
    """What each seed gives alone: its folder, and what is in it; and how long that takes."""

    folders: dict
    facts: dict
    seconds: float


@pytest.fixture(scope="module")
def alone_of(inputs, both, tmp_path_factory):
    @cache
    def run(command):
        """Both at the same time, in folders of their own; a second time, when all is compiled."""
        for _ in range(2):
            root = tmp_path_factory.mktemp("alone")
            folders = {seed: root / str(seed) for seed in SEEDS}
            for process, (seed, folder) in zip(both, folders.items(), strict=True):
                begin(command, inputs, folder)
                process.start(words_of(command, inputs, folder, seed))
            said = [process.wait() for process in both]
            assert all(one.done for one in said), said
        facts = {seed: facts_of(folder) for seed, folder in folders.items()}
        assert facts[1] != facts[2], "expected seeds that can be told apart"
        return Alone(folders, facts, max(one.seconds for one in said))

    return run


def check(command, folder, alone, seeds, said, *, overwrite):
    """One result, of one that says that it is done; the other says why it is not, in one line."""
    done = {seed for seed, one in zip(seeds, said, strict=True) if one.done}
    assert done, [one.text for one in said]
    if not overwrite:
        assert len(done) == 1, "both seeds say that they are done"
    for one in said:
        if not one.done:
            assert one.code in (2, 3) and len(one.lines) == 1 and "Traceback" not in one.text, one.text
            assert (
                str(folder) in one.lines[0]
                and "expected" in one.lines[0]
                and "unexpected" not in one.lines[0]
            )
            assert "something else" not in one.lines[0], one.lines[0]  # it is hiergal's
    found, expected = facts_of(folder), [alone.facts[seed] for seed in done]
    if overwrite:  # a registry offers both versions
        found, *expected = (
            {n: fact for n, fact in one.items() if "shop" not in n} for one in (found, *expected)
        )
    assert found in expected, different(found, expected)


def different(found, expected):
    return [{name for name in found | one if found.get(name) != one.get(name)} for one in expected]


@pytest.mark.parametrize("command", COMMANDS)
def test_pairs(command, inputs, both, alone_of, tmp_path):
    alone, rng, kinds = alone_of(command), np.random.default_rng(20), Counter()
    for pair in range(PAIRS):
        seeds, overwrite = ((1, 1) if pair % 6 == 4 else (1, 2)), pair % 6 == 5
        folder = tmp_path / f"pair{pair}"
        if overwrite:
            shutil.copytree(alone.folders[1], folder)
        else:
            begin(command, inputs, folder)
        late = rng.uniform(0, 1.3 * alone.seconds) if pair % 2 else rng.uniform(0, 0.01)
        starts = rng.permutation([AHEAD, AHEAD + late]) + time.time()
        for process, seed, at in zip(both, seeds, starts, strict=True):
            more = ("--overwrite",) if overwrite else ()
            process.start(words_of(command, inputs, folder, seed, *more), at=float(at))
        said = [process.wait() for process in both]
        check(command, folder, alone, seeds, said, overwrite=overwrite)
        kinds.update(said[i].code for i in range(2))
        shutil.rmtree(folder)
    assert kinds[0] + kinds[1] >= PAIRS and kinds[2] + kinds[3] > 0, kinds
    print(command, dict(kinds), f"{alone.seconds:.2f} s alone")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "validate"])
def test_pairs_from_the_shell(command, inputs, alone_of, tmp_path):
    alone = alone_of(command)
    for pair in range(STARTED):
        folder = tmp_path / f"pair{pair}"
        begin(command, inputs, folder)
        started = [
            subprocess.Popen(
                [*COMMAND, *words_of(command, inputs, folder, seed)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            for seed in SEEDS
        ]
        texts = [one.communicate()[1] for one in started]
        said = [Said(one.returncode, text, 0, 0) for one, text in zip(started, texts, strict=True)]
        check(command, folder, alone, SEEDS, said, overwrite=False)
