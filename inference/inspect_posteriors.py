"""Infer galaxies of a survey and look at each: posteriors, p-values of fits, spectra of residuals, pages of images.

    hiergal survey cosmos real.zarr --catalog cosmos_dev
    python inference/inspect_posteriors.py runs/quickstart/model real.zarr --out runs/real

Writes ``posteriors.fits``, one row for each galaxy; ``checks.ecsv``, how well each is fitted and how usual it is under
the prior, with the power of its residuals in rings of frequency; all draws as ``posterior.nc``; and pages of figures.
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table

from hiergal import figures
from hiergal.arviz_data import posterior_to_arviz, save_arviz
from hiergal.host_memory import keep_freed_memory
from hiergal.hub import load_model
from hiergal.posterior import METHODS, infer
from hiergal.posterior_table import posterior_table, write_table
from hiergal.predictive import check_fits
from hiergal.stages import INFER, key_for
from hiergal.survey import open_store

CHECKED = 430  # purpose of the seed


def main(words: list[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="a trained model's folder")
    parser.add_argument("survey", type=Path, help="a store")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and figures")
    parser.add_argument("--method", choices=METHODS, default="auto")
    parser.add_argument("--limit", type=int, default=100, help="take only the first galaxies")
    parser.add_argument("--draws", type=int, default=100, help="posterior draws of each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    keep_freed_memory()

    model, store = load_model(args.model), open_store(args.survey)
    observation = store.read(np.arange(min(args.limit, len(store))))
    posterior = infer(
        model, observation, key=key_for(args.seed, INFER), method=args.method, draws=args.draws, progress=True
    )
    checks = check_fits(model, observation, posterior, key=key_for(args.seed, CHECKED))
    args.out.mkdir(parents=True, exist_ok=True)
    origin = model.provenance
    table = posterior_table(
        posterior, magnitude_zero_point=origin.magnitude_zero_point, flux_unit=origin.flux_unit
    )
    write_table(table, args.out / "posteriors.fits")
    names = ("identifier", "chi_square", "chi_square_p", "coherence", "coherence_p", "rarity", "spectrum")
    rows = Table(
        {name: getattr(checks, name) for name in names}, meta={"frequency": checks.frequency.tolist()}
    )
    rows["method"] = np.array(METHODS)[posterior.method]
    rows["spectrum"].description = "power of whitened residuals over that of noise, in rings of frequency"
    rows.write(args.out / "checks.ecsv", overwrite=True)
    save_arviz(posterior_to_arviz(posterior, observation, model), args.out / "posterior.nc")
    for number, page in enumerate(figures.fit_pages(observation, posterior, checks)):
        page.savefig(args.out / f"galaxies_{number + 1}.png", dpi=130)
        page.savefig(args.out / f"galaxies_{number + 1}.pdf")
    print(rows[[name for name in rows.colnames if name != "spectrum"]])


if __name__ == "__main__":
    main()
