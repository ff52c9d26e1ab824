"""Radial profiles of the mock survey against real galaxies: fits to 600 COSMOS galaxies, and 33 real stamps.

    HIERGAL_DATA=... python benchmarks/mock_profiles.py [--galaxies 1500]

Fits to COSMOS (Sersic, or bulge and disc where that is the better fit) are drawn as the mock survey draws its galaxies,
with its PSFs and noise, and so are mock galaxies with as many bright ones as faint ones; the stamps of ``cosmos_dev``
are as they are. All are measured alike, on 128x128 pixels at most:

- rho4: radial fourth moment of the adaptive Gaussian (2 for a Gaussian, more for a peak with wings);
- C = 5 log10(r80 / r20), of the light inside five times the adaptive size sigma;
- core: the share of that light inside sigma.

Prints the medians and their standard errors by magnitude, for all and for each type.
"""

import argparse
import copy
import os
from pathlib import Path

import galsim
import numpy as np
import scipy.fft
from astropy.table import Table

from hiergal.survey.mock.galaxies import cosmos_noise_power, draw_mock
from hiergal.survey.mock.optics import draw_psf, psf_bank
from hiergal.survey.mock.population import MAGNITUDE_ZERO_POINT, population_parameters
from hiergal.survey.mock.profiles import Component, render

STAMP = 128
BINS = ((20.0, 21.5), (21.5, 22.5), (22.5, 23.5), (23.5, 24.5), (24.5, 25.2))
FITS = ("acs_psfs/real_galaxy_catalog_23.5_example_fits.fits", "catalogs/cosmos_23.5_500_fits.fits")
NOISE_RMS = 0.00316
STATISTICS = ("rho4", "C", "core", "sigma")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--galaxies", type=int, default=1500, help="mock galaxies")
    arguments = parser.parse_args()
    if "HIERGAL_DATA" not in os.environ:
        parser.error(
            "expected HIERGAL_DATA to name the folder with catalogs/ and cosmos_dev/, got nothing; set it"
        )
    data = Path(os.environ["HIERGAL_DATA"])
    parameters = copy.deepcopy(dict(population_parameters()))
    parameters["magnitude"] |= {"bright": BINS[0][0], "log_density": [0.0, 0.0, 0.0]}
    batch = draw_mock(arguments.galaxies, seed=77, stamp=STAMP, parameters=parameters)
    catalog = batch.observation.catalog
    show("mock", np.asarray(batch.observation.image), catalog["mag_auto"], catalog["late_type"] == 1)
    show("fits", *fits_to_cosmos(data))
    show("stamps", *real_stamps(data), None)


def fits_to_cosmos(data: Path):
    """Draw the fits: images, magnitudes, and which have a Sersic index below 2.5."""
    rng, noise, bank = np.random.default_rng(3), np.sqrt(cosmos_noise_power((STAMP, STAMP))), psf_bank()
    margin = bank.shape[1] // 2
    images, magnitudes, late = [], [], []
    for row in (row for file in FITS for row in Table.read(data / file) if 0 < row["fit_status"][4] < 5):
        plane = render(components_of(row, rng), (STAMP + 2 * margin, STAMP + 2 * margin))
        size = scipy.fft.next_fast_len(STAMP + 4 * margin, real=True)
        blurred = scipy.fft.irfft2(
            scipy.fft.rfft2(plane, s=(size, size)) * scipy.fft.rfft2(draw_psf(rng, bank), s=(size, size)),
            s=(size, size),
        )[2 * margin : 2 * margin + STAMP, 2 * margin : 2 * margin + STAMP]
        white = scipy.fft.rfft2(rng.standard_normal((STAMP, STAMP)))
        images.append(blurred + NOISE_RMS * scipy.fft.irfft2(white * noise, s=(STAMP, STAMP)))
        magnitudes.append(float(row["mag_auto"]))
        late.append(float(row["sersicfit"][2]) < 2.5)
    return images, np.array(magnitudes), np.array(late)


def components_of(row, rng: np.random.Generator) -> list[Component]:
    """Parts of one fit, whichever of the two GalSim's catalogue of parametric galaxies takes."""
    flux = 10 ** (-0.4 * (row["mag_auto"] - MAGNITUDE_ZERO_POINT))
    x, y = rng.uniform(-0.5, 0.5, 2)
    disc, bulge = np.split(np.asarray(row["bulgefit"], float), 2)
    share = float(row["fit_dvc_btt"])
    if (
        0 < row["fit_status"][0] < 5
        and 0.1 < share < 0.9
        and min(disc[1], bulge[1]) > 0
        and min(disc[3], bulge[3]) > 0.051
        and row["fit_mad_b"] <= row["fit_mad_s"]
    ):
        return [
            Component(flux * part_share, fit[1], index, min(fit[3], 0.99), fit[7], x, y)
            for fit, index, part_share in ((disc, 1.0, 1 - share), (bulge, 4.0, share))
        ]
    fit = np.asarray(row["sersicfit"], float)
    index = round(float(np.clip(fit[2], 0.4, 6.2)), 2)
    return [Component(flux, fit[1], index, float(np.clip(fit[3], 0.05, 0.99)), fit[7], x, y)]


def real_stamps(data: Path):
    """Read the stamps of ``cosmos_dev`` and their magnitudes."""
    catalog = galsim.RealGalaxyCatalog("cosmos_dev_catalog.fits", dir=str(data / "cosmos_dev"))
    return [catalog.getGalImage(i).array for i in range(catalog.nobjects)], np.asarray(catalog.mag, float)


def measure(image: np.ndarray) -> list[float]:
    """Measure one stamp; NaN where the adaptive moments do not converge."""
    image = np.ascontiguousarray(image, dtype=float)
    moments = galsim.hsm.FindAdaptiveMom(galsim.Image(image), strict=False)
    if moments.moments_status != 0:
        return [np.nan] * len(STATISTICS)
    sigma, center = moments.moments_sigma, moments.moments_centroid
    y, x = np.indices(image.shape)
    radius = np.hypot(x - (center.x - 1), y - (center.y - 1))
    edges = np.linspace(0.1, min(5 * sigma, min(image.shape) / 2 - 1), 60)
    inside = radius < edges[-1] + 1
    radius, image = radius[inside], image[inside]
    growth = np.array([(image * np.clip(edge - radius + 0.5, 0, 1)).sum() for edge in edges])
    if growth[-1] <= 0:
        return [np.nan] * len(STATISTICS)
    growth /= growth[-1]
    r20, r80 = (np.interp(share, np.maximum.accumulate(growth), edges) for share in (0.2, 0.8))
    return [
        moments.moments_rho4,
        5 * np.log10(r80 / r20),
        float(np.interp(sigma, edges, growth)),
        sigma * 0.03,
    ]


def show(name: str, images, magnitudes: np.ndarray, late: np.ndarray | None) -> None:
    """Print a row of the table for each bin and type."""
    values = np.array([measure(image) for image in images])
    good = np.isfinite(values).all(axis=1)
    types = {"all": np.ones(len(values), bool)} | ({} if late is None else {"late": late, "early": ~late})
    for label, chosen in types.items():
        for low, high in BINS:
            here = values[good & chosen & (magnitudes >= low) & (magnitudes < high)]
            if len(here) >= 4:
                errors = 1.2533 * here.std(axis=0) / np.sqrt(len(here))
                cells = (f"{m:.3f} ± {e:.3f}" for m, e in zip(np.median(here, axis=0), errors, strict=True))
                print(f"| {name}, {label} | {low}-{high} | {len(here)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
