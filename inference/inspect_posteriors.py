"""Infer galaxies of a survey and look at each: posteriors, p-values of fits, spectra of residuals, pages of images.

    hiergal survey cosmos cosmos_dev --spectrum expected --out real.zarr
    python inference/inspect_posteriors.py runs/quickstart/model real.zarr --out runs/real

Writes ``posteriors.fits``, one row for each galaxy; ``checks.ecsv``, how well each is fitted and how usual it is under
the prior, with the power of its residuals in rings of frequency; all draws as ``posterior.nc``; pages of figures;
``brightest.png``, the ten brightest galaxies with draws of what may be behind them; and ``galaxies.html``, a sortable
page of all galaxies, where a click on one shows its own page (with ``--pages``).
"""

import argparse
from pathlib import Path

import numpy as np

from hiergal.cli.study import owned_study
from hiergal.hub import load_model
from hiergal.posterior import METHODS
from hiergal.posterior.fit_checks import check_fits
from hiergal.posterior.infer import infer
from hiergal.posterior.provenance import provenance_of
from hiergal.posterior.table import posterior_table, write_table
from hiergal.posterior.to_arviz import posterior_to_arviz, save_arviz
from hiergal.reports import figures
from hiergal.reports.posteriors import posterior_page
from hiergal.runtime.host_memory import keep_freed_memory
from hiergal.runtime.seeds import INFER, key_for
from hiergal.survey import open_survey

CHECKED = 430  # purpose of the seed
PAGE = 11  # galaxies
BRIGHTEST = 10  # galaxies


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
    parser.add_argument(
        "--pages", action="store_true", help="draw a page of each galaxy, too: seconds for each"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace another inspection in that folder")
    args = parser.parse_args(words)
    keep_freed_memory()
    pages = [f"galaxies_{i + 1}.{kind}" for i in range(-(-args.limit // PAGE)) for kind in ("png", "pdf")]
    brightest = [f"brightest.{kind}" for kind in ("png", "pdf")]
    names = ("posteriors.fits", "checks.ecsv", "posterior.nc", "galaxies.html", *brightest, *pages)
    with owned_study(args, "inspection", names) as own:
        if not own.finished:
            study(args)
            own.done()


def study(args: argparse.Namespace) -> None:
    """Do it, and write it."""
    model = load_model(args.model)
    store = open_survey(args.survey).in_photometry(model.provenance.photometry)
    observation = store.read(np.arange(min(args.limit, len(store))))
    posterior = infer(
        model, observation, key=key_for(args.seed, INFER), method=args.method, draws=args.draws, progress=True
    )
    checks = check_fits(model, observation, posterior, key=key_for(args.seed, CHECKED))
    origin, about = model.provenance, provenance_of(model, method=args.method, seed=args.seed)
    table = posterior_table(
        posterior,
        magnitude_zero_point=origin.magnitude_zero_point,
        flux_unit=origin.flux_unit,
        about=about,
    )
    write_table(table, args.out / "posteriors.fits", overwrite=True)
    rows = checks.to_table()
    rows["method"] = np.array(METHODS)[posterior.method]
    rows.write(args.out / "checks.ecsv", overwrite=True)
    arviz = posterior_to_arviz(posterior, observation, model, about=about)
    save_arviz(arviz, args.out / "posterior.nc", overwrite=True)
    posterior_page(posterior, args.out / "galaxies.html", title=f"Galaxies of {args.survey.name}", pages=args.pages,
                   overwrite=True)  # fmt: skip
    if len(posterior.latents) > 1:
        truth = store.truth(np.arange(len(observation))) if store.has_truth else None
        brightest = figures.brightest_posteriors(posterior, truth, count=BRIGHTEST)
        for suffix in ("png", "pdf"):
            brightest.savefig(args.out / f"brightest.{suffix}", dpi=130)
    order = np.argsort(-np.asarray(posterior.image_mean).sum((1, 2)))
    for first in range(0, len(order), PAGE):
        page = figures.checked_fits(observation, posterior, checks, rows=order[first : first + PAGE])
        for suffix in ("png", "pdf"):
            page.savefig(args.out / f"galaxies_{first // PAGE + 1}.{suffix}", dpi=130)
    print(rows[[name for name in rows.colnames if rows[name].ndim == 1]])


if __name__ == "__main__":
    main()
