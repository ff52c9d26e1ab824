"""Sixty kills, in every command: run again, it gives the same numbers, leaves nothing, and its inputs are as they were.

Most kills come at one of the steps at which names change or a file is written through to the disk, before or after it:
among the last ones in every other case, where a result takes its place and the parts go. The others come at a random
time. Some runs are killed twice, some replace another result, with and without a system that can exchange two names.
"""

import shutil
from collections import Counter

import numpy as np
import pytest
from commands import COMMANDS, PART, Process, begin, facts_of, make_inputs, state_of, words_of

KILLS, TIMED = 4, 1  # of each command: at a step, and at a random time
QUICK, MORE = ("mock", "cutouts", "degrade", "sample zarr", "sample fits", "publish", "registry"), 2
LAST = 12  # steps with which a run ends
SEED = 60

KILLED = Counter()  # by command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    before = state_of(folder)
    yield folder
    assert state_of(folder) == before


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    return tmp_path_factory.mktemp("numbers")


@pytest.fixture(scope="module")
def mortal(numbers):
    """A process whose commands can be killed."""
    process = Process(numbers, fork=True, part=PART)
    yield process
    process.close()


@pytest.fixture(scope="module")
def survivor(numbers):
    """A process that has compiled everything soon, and goes on where others were killed."""
    process = Process(numbers, part=PART)
    yield process
    process.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_kills(command, inputs, mortal, survivor, tmp_path):
    rng, before = np.random.default_rng([SEED, *command.encode()]), state_of(inputs)

    def folder_of(name, other=None):
        folder = tmp_path / name
        if other is None:
            begin(command, inputs, folder)
        else:
            shutil.copytree(other, folder)
        return folder

    alone, other = folder_of("alone"), folder_of("other")
    survivor.start(words_of(command, inputs, other, 2))
    whole = mortal.run(words_of(command, inputs, alone, 1), root=str(alone))
    assert whole.done and whole.steps > 5, whole.text
    expected = facts_of(alone)
    assert survivor.wait().done
    at_steps = KILLS + MORE * (command in QUICK)
    for number in range(at_steps + TIMED):
        replaced = number % 3 == 1
        folder = folder_of(str(number), other if replaced else None)
        words = words_of(command, inputs, folder, 1, *(["--overwrite"] if replaced else []))
        for _ in range(1 + (number == 2)):
            how = {"root": str(folder), "exchange": bool(rng.integers(2))}
            if number < at_steps:
                first = max(1, whole.steps - LAST) if number % 2 else 1
                how |= {"step": int(rng.integers(first, whole.steps + 1)), "after": bool(rng.integers(2))}
            else:
                how["seconds"] = rng.uniform(0, whole.seconds)
            said = mortal.run(words, **how)
            assert said.code == -9 or said.done, said.text  # a run that goes on has fewer steps
            KILLED[command] += said.code == -9
        said = survivor.run(words)
        assert said.done, (how, said.text)
        found = facts_of(folder)
        different = {name for name in found | expected if found.get(name) != expected.get(name)}
        if replaced:  # a registry offers what it offered before, too
            different = {name for name in different if "shop" not in name}
        assert not different, (how, replaced, different)
        assert state_of(inputs) == before, how
        shutil.rmtree(folder)
    assert KILLED[command] >= KILLS // 2, KILLED


def test_as_many_kills_as_promised():
    if set(KILLED) >= set(COMMANDS):  # all of the others were run
        assert KILLED.total() >= 60, KILLED
    print(KILLED)
