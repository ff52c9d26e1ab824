"""Fit the numbers of the mock population to catalogues of real galaxies, and write them where the package reads them.

    HIERGAL_DATA=... python inference/fit_mock_population.py [--refine 3 --galaxies 3000] [--write]

Direct fits come first: number counts, types, sizes, axis ratios, redshifts, light, each to the catalogue that knows it
best. They describe what can be fitted galaxy by galaxy; completeness, clumpiness in F814W and noise change what a
survey measures. So ``--refine`` then draws galaxies, measures them as Lanusse et al. (2020) did, and moves three
physical numbers (typical size of discs, their scatter, how flattened discs are) until the measured median size,
its spread and the mean ellipticity agree with the real ones; nothing is resampled. ``--write`` replaces
``hiergal/survey/mock/acs_population.toml`` and the compact reference ``hiergal/validation/cosmos_reference.toml``.
"""

import argparse
import os
from pathlib import Path

import numpy as np
from astropy.table import Table
from scipy import optimize, special, stats

import hiergal.survey.mock.population as population
from hiergal.measure.moments import measure_moments
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.reference import SMOOTHED, ks_distance, read_paper_curves

PACKAGE = Path(population.__file__).parents[1]
BRIGHT = 17.5
SHARE_BRIGHTER = 140 / 9900  # galaxies brighter than the histogram of magnitudes, over those in it
MOMENTS = {"mag_auto": (23.876, 1.458), "flux_radius": (9.865, 28.16), "zphot": (1.081, 0.555)}
HEADER = """\
# An HST/ACS F814W population like COSMOS, brighter than 25.2 mag. Written by inference/fit_mock_population.py.
#   counts, flux_radius, redshift: means and variances of the training set, and histograms (Fig. 7), of Lanusse et al.
#     (2020); measured sizes and ellipticities (Fig. 6) refine late.log_size and late.face_on_ellipticity
#   size, Sersic index, bulges, light, redshift at F814W < 23.5: COSMOS fits distributed with GalSim (Leauthaud et
#     al. 2007; Mandelbaum et al. 2012)
#   axis ratios and Sersic indices by type: 3D-HST/CANDELS, van der Wel et al. (2012, 2014)
#   noise: 100 COSMOS stamps distributed with GalSim (scatter), 0.00316 on average
#   structure: morphology of real galaxies (Figs. 8 and 9 of the paper), by inference/fit_mock_structure.py
#   features: published rates and sizes of bars, rings and dust lanes; see structure.py
# surface_brightness: the faintest that is detected, mean inside the half-light radius [mag per square arcsec]
# m is mag_auto - 23.5; sizes are ln(circularised half-light radius / 0.03 arcsec); [a, b] is a + b m, a third number
# the scatter; fractions are logistic; other pairs are mean (or median) and scatter.
"""
REFERENCE_HEADER = """\
# Distributions of real HST/ACS F814W COSMOS galaxies, read from Figs. 6a, 6b and 7 of F. Lanusse, R. Mandelbaum,
# S. Ravanbakhsh, C.-L. Li, P. Freeman, B. Poczos (2020), "Deep Generative Models for Galaxy Image Simulations".
# sigma and g: HSM adaptive moments, 128x128 stamps, nothing corrected for PSF or noise, smoothed (see reference.py);
# mag_auto, flux_radius_arcsec: histograms of the catalogue inside 19.9 to 25.2 mag and 0.087 to 0.45 arcsec.
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--refine", type=int, default=0, help="rounds of refinement on measured mock galaxies"
    )
    parser.add_argument("--galaxies", type=int, default=3000, help="galaxies drawn in each round")
    parser.add_argument("--seed", type=int, default=20, help="seed of the galaxies drawn")
    parser.add_argument("--write", action="store_true", help="replace the numbers that the package ships")
    arguments = parser.parse_args()
    if "HIERGAL_DATA" not in os.environ:
        parser.error(
            "expected HIERGAL_DATA to name the folder with catalogs/ and paper_figures/, got nothing; set it"
        )
    data = Path(os.environ["HIERGAL_DATA"])
    parameters = fit(data)
    reference = read_paper_curves(data / "paper_figures")
    for _ in range(arguments.refine):
        refine(parameters, reference, arguments.galaxies, arguments.seed)
    if arguments.refine:
        calibrate_flux_radius(parameters)
    text = HEADER + to_toml(parameters)
    print(text)
    if arguments.write:
        replace(Path(population.__file__).with_name("acs_population.toml"), text)
        replace(
            PACKAGE / "validation" / "cosmos_reference.toml", REFERENCE_HEADER + reference_toml(reference)
        )


def fit(data: Path) -> dict:
    """Fit what catalogues tell directly."""
    cosmos, candels = cosmos_bright(data), candels_shapes(data)
    late, early = cosmos["index"] < 2.5, cosmos["index"] >= 2.5
    parameters = {
        "magnitude": {
            "bright": BRIGHT,
            "faint": 25.2,
            "surface_brightness": 24.9,
            "log_density": fit_counts(data),
        },
        "early": {
            "fraction": fit_logistic(cosmos["m"], early),
            "log_size": fit_line(cosmos["m"][early], np.log(cosmos["radius"][early])),
            "log_index": fit_line(cosmos["m"][early], np.log(cosmos["index"][early])),
            "axis_ratio": [
                float(candels["q"][candels["early"]].mean()),
                float(candels["q"][candels["early"]].std()),
            ],
        },
        "late": {
            "log_size": fit_line(cosmos["m"][late], np.log(cosmos["radius"][late])),
            # Most of the scatter of the catalogue's is that of its fits.
            "log_index": [*fit_line(cosmos["m"][late], np.log(cosmos["index"][late]))[:2], 0.30],
            **fit_disc_shapes(candels["q"][~candels["early"]]),
            **fit_bulges(cosmos),
            "bulge_index": 4.0,  # of the catalogue's bulges
            "bulge_size": fit_bulge_size(data),
        },
        "light": fit_light(cosmos),
        "redshift": {},
        "noise": fit_noise(data),
        "structure": dict(population.population_parameters()["structure"]),  # see fit_mock_structure.py
        "features": dict(population.population_parameters()["features"]),  # published figures
    }
    parameters["redshift"] = fit_redshift(cosmos, parameters)
    calibrate_flux_radius(parameters)
    return parameters


def cosmos_bright(data: Path) -> dict[str, np.ndarray]:
    """Read 500 COSMOS galaxies brighter than 23.5 mag with Sersic fits, and keep the trustworthy ones."""
    table = Table.read(data / "catalogs" / "cosmos_23.5_500_fits.fits")
    hlr, index, q = np.asarray(table["sersicfit"], float)[:, 1:4].T
    good = (
        (np.asarray(table["fit_status"])[:, 4] > 0) & (q > 0.05) & (hlr > 0.5) & (hlr < 200) & (index < 5.9)
    )
    mag = np.asarray(table["mag_auto"], float)
    columns = {
        "m": mag - 23.5, "radius": hlr * np.sqrt(q), "index": index, "q": q,
        "flux_radius": np.asarray(table["flux_radius"], float), "z": np.asarray(table["zphot"], float),
        "bulge_to_total": np.asarray(table["fit_dvc_btt"], float),
    }  # fmt: skip
    return {name: column[good] for name, column in columns.items()}


def candels_shapes(data: Path) -> dict[str, np.ndarray]:
    """Read axis ratios of CANDELS galaxies bright enough for a good fit, about as faint as F814W = 25."""
    table = Table.read(data / "catalogs" / "threedhst_cosmos_f160w.fits")
    keep = (table["mag"] > 20.5) & (table["mag"] < 23.5)
    return {"q": np.asarray(table["q"], float)[keep], "early": np.asarray(table["n"])[keep] >= 2.5}


def fit_counts(data: Path) -> list[float]:
    """Fit ln counts per magnitude with a cubic without constant; Poisson likelihood."""
    bins = read_paper_curves(data / "paper_figures")["mag_auto"]
    share, centre = np.diff(bins.cdf), 0.5 * (bins.x[1:] + bins.x[:-1]) - 24
    width, bright = bins.x[1] - bins.x[0], np.linspace(BRIGHT, bins.x[0], 40) - 24

    def loss(c: np.ndarray) -> float:
        rate = np.polyval([*c, 0.0], centre)
        # The histogram leaves out what is brighter than its first bin; only their number is known.
        brighter = special.logsumexp(np.polyval([*c, 0.0], bright)) + np.log((bright[1] - bright[0]) / width)
        total = np.logaddexp(special.logsumexp(rate), brighter)
        return (1 + SHARE_BRIGHTER) * total - (share * rate).sum() - SHARE_BRIGHTER * brighter

    return optimize.minimize(loss, [0.0, 0.0, 0.7]).x.tolist()


def fit_line(m: np.ndarray, value: np.ndarray) -> list[float]:
    """Fit a straight line robustly; returns intercept, slope and scatter."""
    line = optimize.least_squares(
        lambda c: c[0] + c[1] * m - value, [value.mean(), 0.0], loss="soft_l1", f_scale=0.5
    ).x
    return [*line.tolist(), robust_scatter(value - line[0] - line[1] * m)]


def fit_logistic(m: np.ndarray, member: np.ndarray) -> list[float]:
    """Fit the fraction of members as a logistic function of magnitude."""
    sign = np.where(member, -1, 1)
    return optimize.minimize(lambda c: np.logaddexp(0, sign * (c[0] + c[1] * m)).sum(), [0, 0]).x.tolist()


def fit_disc_shapes(q: np.ndarray) -> dict[str, float | list[float]]:
    """Find the thickness and the flattening of discs, seen from all sides, that give the observed axis ratios.

    How the flattening grows with magnitude is set by mean |g| of bright and faint galaxies (Fig. 6b of the paper).
    """
    uniform = np.random.default_rng(0).uniform(size=(3, 20000))
    levels = [3, 10, 25, 50, 75, 90]

    def misfit(c: np.ndarray) -> np.ndarray:
        p = {"thickness": [c[0], 0.06], "face_on_ellipticity": [c[1], 0.0]}
        drawn = population.disc_axis_ratio(p, np.zeros(20000), uniform)
        return np.percentile(drawn, levels) - np.percentile(q, levels)

    thickness, flattening = optimize.least_squares(misfit, [0.25, 0.2], diff_step=0.02).x
    return {"thickness": [float(thickness), 0.06], "face_on_ellipticity": [float(flattening), 0.07]}


def fit_bulges(cosmos: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Fit how many discs have a bulge, and the bulge-to-total ratio of those that have."""
    ratio, m = (cosmos[name][cosmos["index"] < 2.5] for name in ("bulge_to_total", "m"))
    known = (ratio >= 0) & (ratio < 0.8)
    with_bulge = known & (ratio > 0.02)
    a, b, *_ = stats.beta.fit(ratio[with_bulge], floc=0, fscale=1)
    return {"bulge_fraction": fit_logistic(m[known], with_bulge[known]), "bulge_beta": [float(a), float(b)]}


def fit_bulge_size(data: Path) -> list[float]:
    """Fit the half-light radius of bulges in units of their disc's: median and scatter of the logarithm.

    Of discs whose fit with a bulge is at least as good as the one without, and whose bulge is bright enough to be seen.
    """
    ratios = []
    for file in ("acs_psfs/real_galaxy_catalog_23.5_example_fits.fits", "catalogs/cosmos_23.5_500_fits.fits"):
        table = Table.read(data / file)
        disc, bulge = np.split(np.asarray(table["bulgefit"], float), 2, axis=1)
        share, status = np.asarray(table["fit_dvc_btt"], float), np.asarray(table["fit_status"])
        keep = (status[:, [0, 4]] > 0).all(axis=1) & (status[:, [0, 4]] < 5).all(axis=1)
        keep &= (np.asarray(table["sersicfit"])[:, 2] < 2.5) & (share > 0.1) & (share < 0.8)
        keep &= (disc[:, 1] > 0) & (bulge[:, 1] > 0) & (disc[:, 3] > 0.05) & (bulge[:, 3] > 0.051)
        keep &= np.asarray(table["fit_mad_b"]) <= np.asarray(table["fit_mad_s"])
        sizes = (part[keep, 1] * np.sqrt(part[keep, 3]) for part in (bulge, disc))
        ratios.append(np.log(np.divide(*sizes)))
    ratio = np.concatenate(ratios)
    return [float(np.exp(np.median(ratio))), robust_scatter(ratio)]


def fit_light(cosmos: dict[str, np.ndarray]) -> dict[str, float | list[float]]:
    """Fit flux_radius against the intrinsic size and shape.

    The catalogue's magnitudes are those of SExtractor, whose aperture misses a few per cent of a disc's light and more
    of a spheroid's. The mock's state all the light, with an error of 6 %.
    """
    observed = np.hypot(cosmos["radius"], population.PSF_RADIUS)
    design = np.log([np.full_like(observed, np.e), observed, cosmos["index"], cosmos["q"]])
    target = np.log(cosmos["flux_radius"])
    c = optimize.least_squares(lambda c: c @ design - target, [0.5, 0.8, 0, 0], loss="soft_l1", f_scale=0.1).x
    # Half of the catalogue's scatter is that of the fit, not of the galaxy.
    scatter = 0.7 * robust_scatter(target - c @ design)
    return {
        "flux_error": 0.06,
        "flux_radius": [*c.tolist(), 0.0, scatter],
    }


def fit_redshift(cosmos: dict[str, np.ndarray], parameters: dict) -> dict[str, list[float]]:
    """Take the trend of bright galaxies, and choose level and scatter so that the training moments come out."""
    slope = fit_line(cosmos["m"], np.log(cosmos["z"]))[1]
    mag = population.magnitudes(parameters["magnitude"], np.linspace(0.0005, 0.9995, 1000))
    trend = slope * (mag - 23.5)
    mean, variance = MOMENTS["zphot"]
    second = np.mean(np.exp(2 * trend)) / np.mean(np.exp(trend)) ** 2
    scatter = np.sqrt(np.log((1 + variance / mean**2) / second))
    return {"log_z": [float(np.log(mean / np.exp(trend).mean()) - scatter**2 / 2), slope, float(scatter)]}


def fit_noise(data: Path) -> dict[str, float | list[float]]:
    """Describe the noise levels of real stamps by two depths, scaled to the average of COSMOS."""
    rms = np.sqrt(
        np.asarray(Table.read(data / "acs_psfs" / "real_galaxy_catalog_23.5_example.fits")["NOISE_VARIANCE"])
    )
    deep = rms < 0.0034
    levels = np.array([np.median(rms[deep]), np.median(rms[~deep])])
    share = float(np.mean(~deep))
    levels *= 0.00316 / ((1 - share) * levels[0] + share * levels[1])
    return {"rms": levels.tolist(), "shallow": share, "scatter": float(np.log(rms[deep]).std())}


def calibrate_flux_radius(parameters: dict, rounds: int = 6) -> None:
    """Choose the loss at faint magnitudes and the exponent so that flux_radius has the moments of the training set."""
    c = parameters["light"]["flux_radius"]
    mean, variance = MOMENTS["flux_radius"]
    for _ in range(rounds):
        catalog = population.draw_population(6000, seed=1, parameters=parameters)
        size = catalog["flux_radius"]
        change = 0.4 * float(np.log(np.sqrt(variance) / mean * size.mean() / size.std()))
        c[1] += change
        c[0] -= change * np.log(11.0)  # the typical size [pixels] of the bright galaxies stays as it is
        missing = np.log(mean / size.mean()) - change * np.mean(np.log(catalog["hlr_arcsec"] / 0.03 / 11.0))
        c[4] += float(missing / np.average(np.maximum(catalog["mag_auto"] - 22.5, 0), weights=size))


def refine(parameters: dict, reference: dict, galaxies: int, seed: int) -> None:
    """Move sizes and flattening of discs one step towards the measured distributions."""
    batch = draw_mock(galaxies, seed=seed, stamp=128, parameters=parameters)
    moments = measure_moments(
        batch.observation.image, pixel_scale_arcsec=batch.observation.pixel_scale_arcsec
    )
    good = moments[moments["flag"] == 0]
    low, middle, high = (
        np.interp(level, reference["sigma"].cdf, reference["sigma"].x) for level in (0.16, 0.5, 0.84)
    )
    drawn = np.percentile(good["sigma"], [16, 50, 84])
    size = parameters["late"]["log_size"]
    size[0] += 1.3 * float(np.log(middle / drawn[1]))
    size[2] += 0.5 * float(np.log(high / low) - np.log(drawn[2] / drawn[0]))
    parameters["late"]["face_on_ellipticity"][0] += 5 * float(reference["g"].mean - np.mean(good["g"]))
    distances = {name: round(ks_distance(good[name], reference[name]), 4) for name in SMOOTHED}
    print(f"# mean sigma {np.mean(good['sigma']):.4f} g {np.mean(good['g']):.4f}, KS {distances}", flush=True)


def robust_scatter(values: np.ndarray) -> float:
    """Half of the central 68 % range."""
    return float(np.subtract(*np.percentile(values, [84, 16])) / 2)


def reference_toml(reference: dict) -> str:
    """Condense the full curves to 49 nodes each."""
    lines = []
    for name, curve in reference.items():
        cdf = np.linspace(0.004, min(0.996, curve.cdf[-1]), 49) if curve.smoothed else np.linspace(0, 1, 49)
        x = np.interp(cdf, curve.cdf, curve.x)
        lines += [f"\n[quantiles.{name}]", f"mean = {curve.mean:.5g}"]
        lines += [
            f"{key} = [{', '.join(f'{v:.5g}' for v in values)}]" for key, values in (("x", x), ("cdf", cdf))
        ]
    return "\n".join(lines) + "\n"


def to_toml(tables: dict) -> str:
    """Write two levels of numbers."""

    def show(value: float | list[float]) -> str:
        return f"[{', '.join(map(show, value))}]" if isinstance(value, list) else f"{value:#.4g}"

    return "".join(
        f"\n[{t}]\n" + "".join(f"{k} = {show(v)}\n" for k, v in rows.items()) for t, rows in tables.items()
    )


def replace(path: Path, text: str) -> None:
    """Write next to the target first, so that no half-written file is ever read."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main()
