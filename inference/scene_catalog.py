"""A catalogue of galaxies on a field, for inference/scene.yaml: positions, magnitudes, sizes, redshifts.

    python inference/scene_catalog.py runs/scene.fits --field 102.4

Conditions are those of the model's own population; positions are uniform. Real surveys count some 25 galaxies per
square arcminute down to i = 24.5 (those of the HSC shape catalogue: Mandelbaum et al. 2018, PASJ 70, S25).
"""

import argparse
from pathlib import Path

import galsim
import numpy as np

from hiergal import GenerativeGalaxyModel


def main(words: list[str] | None = None) -> None:
    """Draw the catalogue."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="FITS table to write")
    parser.add_argument("--model", default="hub:mock-acs")
    parser.add_argument("--field", type=float, default=102.4, help="side of the field [arcsec]")
    parser.add_argument("--density", type=float, default=25.0, help="galaxies per square arcminute")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    rng = np.random.default_rng(args.seed)
    count = rng.poisson(args.density * (args.field / 60) ** 2)
    table = GenerativeGalaxyModel(args.model).population(count, galsim.BaseDeviate(args.seed + 1))
    table["x_arcsec"], table["y_arcsec"] = args.field * rng.random((2, count))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    table.write(args.out, overwrite=True)
    print(f"{args.out}: {count} galaxies on {args.field} x {args.field} arcsec")


if __name__ == "__main__":
    main()
