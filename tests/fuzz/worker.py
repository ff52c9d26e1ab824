"""A process that tries cases: it reads the number of each from its input, and writes what happened as a line of JSON.

It is started by :mod:`fuzzing`, which watches its time and memory, and starts another one when it has to be ended.
"""

import json
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from inputs import DOORS, WRONG  # noqa: E402
from mutations import spoil_bytes  # noqa: E402

NAMES = list(DOORS)
STRUCTURAL_ONLY = ("configuration", "arrays")  # of which the bytes are another program's to read


class Sound:
    """Sound inputs, made once; each case gets a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.there = folder, {}

    def __getitem__(self, name: str):
        if name not in self.there:
            place = self.folder / name
            place.mkdir()
            path = DOORS[name].make(place)
            self.there[name] = (path.relative_to(place), DOORS[name].read(path))
        return self.there[name]


def tried(number: int, sound: Sound, folder: Path) -> dict[str, str | int]:
    """Spoil an input, and read it."""
    rng, name = np.random.default_rng([20261129, number]), NAMES[number % len(NAMES)]
    door, (inside, expected) = DOORS[name], sound[name]
    place = folder / "case" / "inside"
    shutil.copytree(sound.folder / name, place)
    path = place / inside
    kind = "?"
    try:
        structural = name in STRUCTURAL_ONLY or rng.integers(2)
        kind = door.change(path, rng) if structural else spoil_bytes(path, rng)
        return {"number": number, "door": name, "kind": kind, **judged(door, path, expected)}
    finally:
        shutil.rmtree(folder / "case")


def judged(door, path: Path, expected) -> dict[str, str]:
    """What came of reading: refused in words, the same as ever, faithful to the file, or a fault."""
    try:
        found = door.read(path)
    except (ValueError, TypeError, OSError) as error:
        words = str(error)
        ours = "expected" in words or path.name in words or isinstance(error, FileNotFoundError)
        return {
            "result": "refused" if ours else "nameless",
            "words": f"{type(error).__name__}: {words[:300]}",
        }
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {
            "result": "traceback",
            "words": f"{type(error).__name__}: {str(error)[:200]} in {last.filename}:{last.lineno}",
        }
    if repr(found) == repr(expected):
        return {"result": "same", "words": ""}
    try:
        right = door.faithful is not None and door.faithful(path, found)
    except Exception as error:  # accepted, where a plain reader finds nothing to read
        return {
            "result": "wrong",
            "words": f"{WRONG}: the independent reading says {type(error).__name__}: {error}"[:300],
        }
    return {"result": "faithful", "words": ""} if right else {"result": "wrong", "words": WRONG}


def main() -> None:
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    with tempfile.TemporaryDirectory(prefix="hiergal-fuzz-") as name:
        sound = Sound(Path(name) / "sound")
        sound.folder.mkdir()
        for door in sys.argv[1:] or NAMES:  # libraries load, and programs compile, before anything is timed
            sound[door]
        print(json.dumps({"ready": True}), file=out, flush=True)
        for line in sys.stdin:
            print(json.dumps(tried(int(line), sound, Path(name))), file=out, flush=True)


if __name__ == "__main__":
    main()
