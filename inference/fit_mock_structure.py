"""Fit how much structure the galaxies of the mock survey have to the morphology of real COSMOS galaxies.

    python inference/fit_mock_structure.py [--rounds 4 --galaxies 2000] [--write]

Draws galaxies, measures M, I, D, Gini and M20 as Lanusse et al. (2020) did, and changes one number after the other of
table ``structure`` in ``hiergal/survey/mock/acs_population.toml``, up and down by a factor, as long as the
distributions come nearer to those of Figs. 8 and 9. The same galaxies are drawn each time, so that small changes can be
told apart; the last lines are measured on others. Sizes and ellipticities change with the structure:
``inference/fit_mock_population.py --refine 3 --write`` afterwards brings them back.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
from scipy import ndimage

import hiergal.survey.mock.population as population
from hiergal.measure.morphology import measure_paper_morphology
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.morphology_reference import (
    morphology_distances,
    morphology_reference,
    morphology_samples,
)
from hiergal.validation.reference import ks_distance

SINGLE = 0.27  # share of real galaxies with one group of light (from the curves and counts of Figs. 8 and 9)
BLUR = 1.2  # bins: of both planes, so that the noise of counts does not lead the way
ROOM = {
    "least": (0.0, 0.6),
    "knots_most": (0.2, 0.8),
    "companion_share": (0.02, 0.5),
    "knots_chance": (0.05, 1.0),
}
FIRST_FACTOR = 1.6
Numbers = dict[str, float | list[float]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4, help="rounds over all numbers")
    parser.add_argument("--galaxies", type=int, default=2000, help="galaxies drawn for each trial")
    parser.add_argument("--seed", type=int, default=60, help="seed of the galaxies drawn")
    parser.add_argument("--write", action="store_true", help="replace the numbers that the package ships")
    arguments = parser.parse_args()
    parameters = copy.deepcopy(dict(population.population_parameters()))
    search(parameters, arguments.galaxies, arguments.seed, arguments.rounds)
    text = to_toml(parameters["structure"])
    print(text)
    for name, distance in morphology_distances(
        measured(parameters, 5000, arguments.seed + 1), REFERENCE
    ).items():
        print(
            f"# {name}: {distance.distance:.3f} +- {distance.error:.3f}, of the same population {distance.floor:.3f}"
        )
    if arguments.write:
        path = Path(population.__file__).with_name("acs_population.toml")
        before, _, after = path.read_text(encoding="utf-8").partition("\n[structure]")
        after = after[after.index("\n[") :]
        temporary = path.with_suffix(".part")
        temporary.write_text(before + "\n" + text + after, encoding="utf-8")
        temporary.replace(path)


REFERENCE = morphology_reference()


def search(parameters: dict, galaxies: int, seed: int, rounds: int) -> None:
    """Change one number after the other, by a factor that shrinks from round to round."""
    structure = parameters["structure"]
    places = [
        (k, i) for k, v in structure.items() for i in (range(len(v)) if isinstance(v, list) else [None])
    ]
    best, factor = loss(measured(parameters, galaxies, seed)), FIRST_FACTOR
    print(f"# {best:.4f} at the start", flush=True)
    for _ in range(rounds):
        for name, i in places:
            for change in (factor, 1 / factor):
                old = structure[name] if i is None else structure[name][i]
                low, high = ROOM.get(name, (0.0, 40.0))
                new = float(np.clip((old or 0.02) * change, low, high))
                put(structure, name, i, new)
                found = loss(measured(parameters, galaxies, seed))
                if found < best:
                    best = found
                    print(f"# {best:.4f} with {name}{'' if i is None else [i]} = {new:.4g}", flush=True)
                    break
                put(structure, name, i, old)
        factor = np.sqrt(factor)


def put(structure: Numbers, name: str, i: int | None, value: float) -> None:
    """Set one number."""
    if i is None:
        structure[name] = value
    else:
        structure[name][i] = value


def measured(parameters: dict, galaxies: int, seed: int):
    """Draw galaxies and measure them."""
    batch = draw_mock(galaxies, seed=seed, stamp=64, parameters=parameters)
    return measure_paper_morphology(batch.observation.image)


def loss(morphology) -> float:
    """Sum the distances of all curves and of both planes, blurred, and of the share with one group."""
    samples = morphology_samples(morphology)
    total = sum(ks_distance(samples[name], curve) for name, curve in REFERENCE.curves.items())
    for name, plane in REFERENCE.planes.items():
        counts = np.histogram2d(*samples[name].T, bins=[plane.x_edges, plane.y_edges])[0]
        here, there = (
            ndimage.gaussian_filter(c / c.sum(), BLUR, mode="constant") for c in (counts, plane.counts)
        )
        total += 0.5 * np.abs(here - there).sum()
    return float(total + 0.3 * abs(np.mean(morphology["i"] == 0) - SINGLE))


def to_toml(structure: Numbers) -> str:
    """Write the table."""

    def show(value: float | list[float]) -> str:
        return f"[{', '.join(map(show, value))}]" if isinstance(value, list) else f"{value:#.4g}"

    return "[structure]\n" + "".join(f"{name} = {show(value)}\n" for name, value in structure.items())


if __name__ == "__main__":
    main()
