"""Figures show what they are given: which galaxies, in which order, on which scale."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.table import Table
from conftest import awkward_psf
from toys import tiny_model, tiny_recipe, tiny_survey

import hiergal
from hiergal.measure.profile import ProfileSummary
from hiergal.observation import Observation
from hiergal.observation.independent import PixelNoise, WhiteNoise
from hiergal.observation.stationary import StationaryNoise
from hiergal.posterior import Posterior
from hiergal.posterior.fit_checks import FitChecks
from hiergal.posterior.scenes.deblend import Deblended
from hiergal.reports import figures
from hiergal.reports.figures.style import bright_to_faint, stretch
from hiergal.runtime.plotting import BLACK, ORANGE
from hiergal.training.history import TrainInfo

N, SHAPE, DRAWS = 7, (16, 21), 12
MAGNITUDES = np.array([24.0, 21.5, 23.0, 25.0, 22.0, 24.5, 20.0], np.float32)
BRIGHT_TO_FAINT = [6, 1, 4, 2, 0, 5, 3]


def observe(noise=None, mask=None, catalog=None) -> Observation:
    rng = np.random.default_rng(4)
    image = (rng.normal(size=(N, *SHAPE)) + 10 ** (-0.4 * (MAGNITUDES - 25))[:, None, None]).astype(
        np.float32
    )
    noise = WhiteNoise(np.linspace(0.5, 2, N, dtype=np.float32)) if noise is None else noise
    catalog = {"mag_auto": MAGNITUDES} if catalog is None else catalog
    return Observation(image, awkward_psf(N), noise, mask, catalog, np.arange(N), pixel_scale_arcsec=0.03)


def infer(observation: Observation) -> Posterior:
    rng = np.random.default_rng(5)
    summary = ProfileSummary(*(rng.random((DRAWS, N)) for _ in range(6)))
    profile = rng.random((N, *SHAPE))
    return Posterior(
        rng.normal(size=(DRAWS, N, 8)), summary, profile, 0.1 * profile, 0.9 * profile,
        np.linspace(0.9, 1.1, N), np.ones(N), np.ones(N), np.zeros(N, int), {}, observation.identifier,
    )  # fmt: skip


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def shown(axes) -> np.ndarray:
    return np.ma.filled(axes.images[0].get_array(), np.nan)


def drawable(figure) -> bool:
    """A figure that cannot be drawn, or warns, raises here."""
    figure.canvas.draw()
    return True


def test_stretch_is_linear_in_the_noise_and_odd():
    assert stretch(np.array([[0.02]]), 2.0).item() == pytest.approx(0.005, rel=1e-4)
    assert stretch(np.array([[-7.0]]), 2.0) == -stretch(np.array([[7.0]]), 2.0)


def test_importing_figures_does_not_load_matplotlib():
    code = "import sys, hiergal.reports.figures, hiergal.reports.page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_survey_stamps_go_from_bright_to_faint_with_their_own_labels():
    observation = observe()
    figure = figures.survey_stamps(observation)
    assert drawable(figure)
    labels = [text for text in texts(figure) if '"' not in text]
    assert labels == [f"{m:.1f}" for m in MAGNITUDES[BRIGHT_TO_FAINT]]
    for axes, i in zip(figure.axes, BRIGHT_TO_FAINT, strict=True):
        np.testing.assert_allclose(shown(axes), stretch(observation.image[i], observation.noise.sigma[i]))
        assert axes.images[0].origin == "lower"


def test_survey_stamps_pick_evenly_and_do_without_magnitudes():
    observation = observe(catalog={})
    assert list(bright_to_faint(observe(), 3)) == [6, 2, 3]
    assert len(figures.survey_stamps(observation, count=3).axes) == 3
    assert bright_to_faint(observation, 1)[0] == 6  # by flux
    nine = observation[np.arange(9) % N]
    assert len(figures.survey_stamps(nine).axes) == 9  # no empty places in the second row


def test_survey_stamps_need_a_galaxy():
    with pytest.raises(ValueError, match="at least one galaxy"):
        figures.survey_stamps(observe()[:0])


def test_masked_pixels_are_left_out():
    mask = np.zeros((N, *SHAPE), bool)
    mask[:, 3, 5] = True
    sigma = np.ones((N, *SHAPE), np.float32)
    sigma[mask] = np.nan
    observation = observe(PixelNoise(sigma), mask)
    figure = figures.reconstructions(observation, infer(observation), rows=2)
    assert drawable(figure)
    assert np.argwhere(np.isnan(shown(figure.axes[0]))).tolist() == [[3, 5]]
    assert np.argwhere(np.isnan(shown(figure.axes[2]))).tolist() == [[3, 5]]


@pytest.mark.parametrize("with_truth", [False, True])
def test_reconstructions_show_whitened_residuals_beside_the_right_galaxy(with_truth):
    observation = observe(StationaryNoise(np.full((N, 16, 11), 4.0, np.float32), width=21))
    posterior = infer(observation)
    truth = 2 * posterior.profile_mean if with_truth else None
    figure = figures.reconstructions(observation, posterior, truth, rows=np.array([4, 1]))
    assert drawable(figure)
    columns = 6 if with_truth else 5
    assert len(figure.axes) == 2 * columns + 1  # and the colour bar
    second = figure.axes[columns : 2 * columns]
    residual = (observation.image[1] - posterior.image_mean[1]) / 2
    np.testing.assert_allclose(shown(second[2]), residual, atol=1e-5)
    assert second[2].images[0].get_clim() == (-4, 4)
    assert second[0].images[0].get_clim() == second[1].images[0].get_clim()
    if with_truth:
        np.testing.assert_allclose(shown(second[5]), stretch(truth[1], 2.0), rtol=1e-5)
        assert second[3].images[0].get_clim() == second[5].images[0].get_clim()
    assert "21.5 mag" in texts(figure) and f"χ² {posterior.chi_square[1]:.2f}" in texts(figure)


def test_reconstructions_refuse_posteriors_of_other_galaxies():
    observation = observe()
    with pytest.raises(ValueError, match="same order"):
        figures.reconstructions(observation, infer(observation)[::-1])


def checks_of(observation: Observation) -> FitChecks:
    rng = np.random.default_rng(6)
    p, power = rng.uniform(0.1, 1, (6, N)), rng.uniform(0.9, 1.1, (N, 4))
    power[1, 2] = 300.0
    p[:, 1] = [1e-4, 1e-30, 0.0, 3e-3, 1e-5, 0.25]
    return FitChecks(
        identifier=observation.identifier, chi_square=1 + p[0], p_chi_square=p[1], coherent=4 + p[0],
        p_coherent=p[2], frequency=np.arange(1.0, 5.0), power=power, power_low=np.full((N, 4), 0.8),
        power_high=np.full((N, 4), 1.2), p_spectrum=p[3], p_prior=p[5], p_pixels=p[4],
    )  # fmt: skip


def test_checked_fits_put_numbers_beside_the_right_galaxy():
    mask = np.zeros((N, *SHAPE), bool)
    mask[1, 3, 5] = True
    observation = observe(mask=mask)
    posterior, checks = infer(observation), checks_of(observation)
    figure = figures.checked_fits(observation, posterior, checks, rows=np.array([4, 1]))
    assert drawable(figure)
    assert len(figure.axes) == 2 * 6 + 1  # five stamps, a spectrum, and the colour bar
    stamps, spectra = figure.axes[5:10], figure.axes[10:12]
    residual = (observation.image[1] - posterior.image_mean[1]) / observation.noise.sigma[1]
    np.testing.assert_allclose(shown(stamps[4]), np.where(mask[1], np.nan, residual), rtol=1e-5)
    np.testing.assert_allclose(
        shown(stamps[2]), stretch(posterior.profile_mean[1], observation.noise.sigma[1])
    )
    assert [a.get_yscale() for a in spectra] == ["linear", "log"]
    drawn = [line.get_xydata() for line in spectra[1].lines]
    np.testing.assert_allclose(drawn[1], np.stack([checks.frequency, checks.power[1]], axis=1))
    np.testing.assert_allclose(drawn[2], [[3.0, 300.0]])  # outside the band
    assert spectra[1].get_xlabel() == "frequency [cycles per arcsec]"
    said = {text.get_text(): text.get_color() for axes in [*stamps, spectra[1]] for text in axes.texts}
    assert said["pixels p 1e-05"] == said["χ² 1.00, p 1e-30"] == said["p 0.003"] == ORANGE
    assert said["peak 4.0 σ, p < 1e-99"] == ORANGE and said["prior p 0.25"] == BLACK
    assert "1\n21.50 mag" in said


def test_checked_fits_go_from_bright_to_faint_and_refuse_those_of_others():
    observation = observe()
    posterior, checks = infer(observation), checks_of(observation)
    figure = figures.checked_fits(observation, posterior, checks, rows=3)
    names = [text.split("\n")[0] for text in texts(figure) if text.endswith(" mag")]
    assert names == [str(BRIGHT_TO_FAINT[i]) for i in (0, 3, 6)]
    with pytest.raises(ValueError, match="expected posteriors of the 7 observed galaxies in the same order"):
        figures.checked_fits(observation, posterior[::-1], checks)
    with pytest.raises(ValueError, match="expected checks of the 7 observed galaxies in the same order"):
        figures.checked_fits(observation, posterior, checks.replace(identifier=observation.identifier[::-1]))


def scenes_of(observation: Observation) -> Deblended:
    """Two sources in each scene."""
    rng = np.random.default_rng(7)
    latents, positions = rng.normal(size=(DRAWS, N, 2, 8)), rng.uniform(-3, 3, (DRAWS, N, 2, 2))
    summary = ProfileSummary(*(rng.random((DRAWS, N, 2)) for _ in range(6)))
    image = rng.random((4, N, 2, *SHAPE))
    return Deblended(
        latents, positions, summary, *image, np.linspace(0.9, 1.5, N), np.ones(N), observation.identifier
    )


@pytest.mark.parametrize("with_truth", [False, True])
def test_deblended_scenes_show_each_source_with_its_error(with_truth):
    observation = observe(StationaryNoise(np.full((N, 16, 11), 4.0, np.float32), width=21))
    found = scenes_of(observation)
    truth = 2 * found.image_mean if with_truth else None
    figure = figures.deblended_scenes(observation, found, truth, rows=np.array([4, 1]))
    assert drawable(figure)
    each = 3 if with_truth else 2
    assert len(figure.axes) == 2 * (3 + 2 * each)
    second = figure.axes[3 + 2 * each :]
    residual = (observation.image[1] - found.image_mean[1].sum(axis=0)) / 2
    np.testing.assert_allclose(shown(second[2]), residual, atol=1e-5)
    assert f"{found.chi_square[1]:.2f}" in texts(figure)
    for k in range(2):
        mean, error = second[3 + each * k : 5 + each * k]
        np.testing.assert_allclose(shown(mean), stretch(found.image_mean[1, k], 2.0), rtol=1e-5)
        assert [text.get_text() for text in error.texts] == [f"{found.image_std[1, k].max() / 2:.1f}"]
        if with_truth:
            np.testing.assert_allclose(shown(second[5 + each * k]), stretch(truth[1, k], 2.0), rtol=1e-5)
    crosses = second[0].lines[0].get_xydata()
    np.testing.assert_allclose(crosses, found.positions[:, 1].mean(axis=0) + [10, 7.5])
    with pytest.raises(ValueError, match=f"{N} scenes in the same order"):
        figures.deblended_scenes(observation, found.replace(identifier=observation.identifier[::-1]))


def test_pages_show_every_galaxy_once():
    observation = observe()
    pages = figures.reconstruction_pages(observation, infer(observation), per_page=3)
    labels = [text for page in pages for text in texts(page) if text.endswith(" mag")]
    assert labels == [f"{m:.1f} mag" for m in MAGNITUDES[BRIGHT_TO_FAINT]]
    assert [len(page.axes) for page in pages] == [16, 16, 6]


def test_drawn_galaxies_share_the_stretch_of_their_column():
    image = observe().image
    figure = figures.drawn_galaxies(
        image, 2 * image, image, list("abcdefg"), noise_level=np.ones(N), pixel_scale_arcsec=0.03
    )
    assert drawable(figure)
    limits = np.array([axes.images[0].get_clim() for axes in figure.axes]).reshape(3, N, 2)
    assert (limits == limits[:1]).all()
    assert set("abcdefg") < set(texts(figure))


def test_the_latents_are_shown_in_order_of_what_they_cost():
    history = tuple(
        TrainInfo(10 * i, 1.0, 0.0, -90.0, 80.0 / i, 6.0, (1.0, 3.0, 2.0), 1.1) for i in range(1, 4)
    )
    each, order, plane = figures.rate_and_distortion(history).axes
    assert len(each.lines) == 3
    assert [bar.get_height() for bar in order.patches] == [3.0, 2.0, 1.0]
    np.testing.assert_allclose(plane.lines[0].get_ydata(), [80, 40, 80 / 3])
    with pytest.raises(ValueError, match="expected at least one evaluation"):
        figures.rate_and_distortion(())


def test_training_curves_mark_the_best_bound():
    bounds = [-1e6, 10.0, 40.0, 30.0, 20.0, 25.0, 24.0, 23.0, 22.0]
    history = tuple(
        TrainInfo(100 * (i + 1), 1.0, -b, b, 8.0 - b, 8.0, (4.0, 4.0), 1.1) for i, b in enumerate(bounds)
    )
    figure = figures.training_curves(history)
    assert drawable(figure)
    bound = figure.axes[0]
    assert list(bound.lines[0].get_xdata()) == [300, 300]
    assert bound.get_ylim()[0] > -100  # the first evaluation does not set the scale
    with pytest.raises(ValueError, match="at least one evaluation"):
        figures.training_curves(())


def test_latent_corner_puts_data_above_and_flow_below(rng):
    data, flow, colour = rng.normal(size=(50, 6)), rng.normal(size=(40, 6)), np.linspace(20, 25, 50)
    figure = figures.latent_corner(data, colour, flow, np.linspace(20, 25, 40), dims=(1, 4))
    assert drawable(figure)
    upper, lower = figure.axes[1].collections[0], figure.axes[2].collections[0]
    np.testing.assert_allclose(upper.get_offsets(), data[:, [4, 1]])
    np.testing.assert_allclose(lower.get_offsets(), flow[:, [1, 4]])
    np.testing.assert_allclose(upper.get_array(), colour)
    assert sorted(patch.radius for patch in figure.axes[1].patches) == [1, 2]


def test_latent_corner_picks_the_latents_that_go_with_the_colour(rng):
    data, colour = rng.normal(size=(300, 9)), rng.normal(size=300)
    data[:, [0, 2, 3, 5, 8]] += colour[:, None]
    figure = figures.latent_corner(data, colour, data, colour)
    names = [axes.get_xlabel() for axes in figure.axes[20:25]]
    assert names == [f"$z_{{{i}}}$" for i in (1, 3, 4, 6, 9)]


def test_sizes_and_ellipticities_leave_out_failures(rng):
    def table(n):
        rows = Table(
            {"sigma": rng.uniform(0.1, 0.3, n), "g": rng.uniform(0, 0.6, n), "flag": np.zeros(n, int)}
        )
        rows["sigma"][0], rows["flag"][0] = np.nan, 1
        return rows

    survey, drawn = table(80), table(60)
    figure = figures.sizes_and_ellipticities(survey, drawn)
    assert drawable(figure)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    mean, error = survey["sigma"][1:].mean(), survey["sigma"][1:].std(ddof=1) / 79**0.5
    assert legend[0] == f"survey: {mean:.4f} ± {error:.4f}"
    with pytest.raises(ValueError, match="at least two measured"):
        figures.sizes_and_ellipticities(survey, drawn[:2])


def test_coverage_band_holds_calibrated_posteriors(rng):
    nominal, galaxies = np.linspace(0.1, 0.9, 9), 200
    figure = figures.coverage(nominal, {"total flux": nominal + 0.05}, galaxies)
    assert drawable(figure)
    np.testing.assert_allclose(figure.axes[1].lines[1].get_ydata(), 5.0)
    corners = figure.axes[0].collections[0].get_paths()[0].vertices
    at_half = corners[np.isclose(corners[:, 0], 0.5), 1]
    assert at_half.min() == pytest.approx(0.5 - 1.96 * np.sqrt(0.25 / galaxies), abs=0.01)
    assert at_half.max() == pytest.approx(0.5 + 1.96 * np.sqrt(0.25 / galaxies), abs=0.01)


@pytest.mark.parametrize("brightest", [50.0, 5e4])
def test_intervals_show_median_and_ratio(brightest):
    truth = np.geomspace(1, brightest, 9)
    figure = figures.intervals(truth, 1.1 * truth * np.linspace(0.9, 1.1, 41)[:, None], unit="counts/s")
    assert drawable(figure)
    top, bottom = figure.axes
    np.testing.assert_allclose(top.containers[0].lines[0].get_ydata(), 1.1 * truth)
    np.testing.assert_allclose(bottom.containers[0].lines[0].get_ydata(), 1.1)
    assert "[counts/s]" in bottom.get_xlabel()


def test_the_brightest_come_first_with_truth_and_two_draws(key, make_psf):
    """Every panel shows what its heading says, in units of the noise of its own galaxy."""
    model = tiny_model(tiny_recipe((16, 24)))
    observation = tiny_survey(4, (16, 24), make_psf(4))
    posterior = hiergal.infer(model, observation, key=key, draws=5, batch=4, verdict=False)
    order = np.argsort(observation.catalog["mag_auto"])[:3]
    truth = 2 * posterior.profile_mean
    figure = figures.brightest_posteriors(posterior, truth, count=3)
    assert drawable(figure) and len(figure.axes) == 3 * 6 + 2
    draws, level = posterior.images(draws=2), np.asarray(observation.noise.rms())
    for r, row in enumerate(order):
        panels = figure.axes[6 * r : 6 * r + 6]
        profiles = (truth, observation.image, posterior.profile_mean, *draws, posterior.profile_std)
        for panel, images in zip(panels, profiles, strict=True):
            np.testing.assert_allclose(shown(panel), stretch(images[row], level[row]), rtol=1e-3, atol=1e-4)
        limits = {panel.images[0].get_clim()[1] for panel in (panels[0], *panels[2:5])}
        assert len(limits) == 1, "one colour bar holds for all of them"
    assert [axes.get_xlabel() for axes in figure.axes[-2:]] == [
        "flux of a pixel [σ of its noise]",
        "std. dev. [σ]",
    ]


def test_the_brightest_do_without_truth_and_need_two_draws(key, make_psf):
    model, observation = tiny_model(tiny_recipe((16, 24))), tiny_survey(2, (16, 24), make_psf(2))
    posterior = hiergal.infer(model, observation, key=key, draws=2, batch=4, verdict=False)
    figure = figures.brightest_posteriors(posterior)
    assert drawable(figure) and len(figure.axes) == 2 * 5 + 2
    assert [axes.get_title() for axes in figure.axes[:2]] == ["observed", "posterior mean"]
    one = hiergal.infer(model, observation, key=key, draws=1, batch=4, verdict=False)
    with pytest.raises(ValueError, match="at least 2 draws, got 1"):
        figures.brightest_posteriors(one)
    with pytest.raises(ValueError, match="attach"):
        figures.brightest_posteriors(infer(observe()))


def test_amplitudes_of_rings_are_cumulative_shares():
    rng = np.random.default_rng(1)
    table = Table({name: rng.normal(size=30) for name in ("m1", "m2", "m3", "winding2", "drift2")})
    figure = figures.amplitudes_of_rings({"survey": table, "drawn": table[:20]})
    assert drawable(figure) and len(figure.axes) == 5
    drift = figure.axes[4].lines[0]
    np.testing.assert_allclose(drift.get_xdata(), np.sort(np.abs(table["drift2"])))
    np.testing.assert_allclose(drift.get_ydata(), np.arange(1, 31) / 30)
