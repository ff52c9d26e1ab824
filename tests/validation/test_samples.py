"""Samples made alike: the same PSF and noise for whatever is compared; figures of their morphology."""

import jax
import numpy as np
import pytest
from astropy.table import Table
from conftest import awkward_psf
from toys import tiny_model, tiny_survey

from hiergal.measure.morphology import measure_paper_morphology
from hiergal.reports import figures
from hiergal.survey.mock.galaxies import draw_mock
from hiergal.validation.morphology_reference import morphology_reference
from hiergal.validation.samples import halves, make_samples, observe_again

SHAPE = (16, 24)


def test_samples_share_psf_noise_and_conditions():
    observation = tiny_survey(12, SHAPE, awkward_psf(12))
    model = tiny_model()
    samples = make_samples(model, observation, key=jax.random.key(3))
    assert samples.real.shape == samples.drawn.shape == samples.parametric.shape == (12, *SHAPE)
    again = make_samples(model, observation, key=jax.random.key(3))
    np.testing.assert_array_equal(again.drawn, samples.drawn)
    np.testing.assert_array_equal(samples.real, observation.image)
    assert not np.array_equal(samples.drawn, make_samples(model, observation, key=jax.random.key(4)).drawn)


@pytest.mark.parametrize("noise", ["correlated", "white"])
def test_galaxies_observed_again_differ_by_noise_of_the_survey_alone(noise):
    """Truth observed again minus the survey's image: the difference of two noise images."""
    batch = draw_mock(200, seed=3, stamp=32, noise=noise)
    again = observe_again(batch.truth, batch.observation, key=jax.random.key(1))
    difference = (again - batch.observation.image) / batch.observation.catalog["noise_rms"][:, None, None]
    difference = difference[
        :, 6:-6, 6:-6
    ]  # closer to the edge there is light that is scattered in from outside
    # 200 images: the variance of correlated noise is known to a per cent or two.
    assert difference.var() == pytest.approx(2, rel=0.04)
    assert abs(difference.mean()) < 0.05
    first = observe_again(batch.truth[:3], batch.observation[np.arange(3)], key=jax.random.key(1))
    np.testing.assert_allclose(first, again[:3], atol=1e-6)


def test_stamps_of_another_size_are_refused():
    observation = tiny_survey(3, (16, 20), awkward_psf(3))
    with pytest.raises(ValueError, match="prepare the survey with the model's stamps"):
        make_samples(tiny_model(), observation, key=jax.random.key(0))


def test_halves_share_no_galaxy():
    first, second = halves(101, seed=2)
    assert sorted([*first, *second]) == list(range(101))
    assert abs(len(first) - len(second)) == 1


@pytest.fixture(scope="module")
def measured():
    return measure_paper_morphology(draw_mock(150, seed=2, stamp=64).observation.image)


def test_figures_of_morphology_show_every_sample(measured):
    references = {name: morphology_reference(name) for name in ("cosmos", "parametric", "mock")}
    curves = figures.morphology_curves({"ours": measured}, references)
    curves.canvas.draw()
    assert [len(panel.lines) for panel in curves.axes] == [4, 4, 4]
    area = [np.trapezoid(line.get_ydata(), line.get_xdata()) for panel in curves.axes for line in panel.lines]
    np.testing.assert_allclose(area, 1, atol=0.03)
    planes = figures.morphology_planes({"ours": measured}, references)
    planes.canvas.draw()
    titles = [panel.get_title() for panel in planes.axes]
    assert titles[:8] == 2 * [*references, "ours"]
    assert planes.axes[0].xaxis_inverted() and not planes.axes[4].xaxis_inverted()


def test_figures_of_morphology_name_what_is_wrong(measured):
    with pytest.raises(ValueError, match="at most 3 samples"):
        figures.morphology_curves({str(i): measured for i in range(4)}, {})
    with pytest.raises(ValueError, match="at least one published sample"):
        figures.morphology_planes({"ours": measured}, {})


def test_references_are_what_the_paper_shows():
    """Distances of the paper's samples to each other, as its tables give them (baseline_distances_to_cosmos.csv)."""
    cosmos, published = (
        morphology_reference(),
        {"parametric": (0.085, 0.083, 0.222, 0.224, 0.258), "mock": (0.031, 0.036, 0.055, 0.142, 0.181)},
    )
    for sample, expected in published.items():
        other = morphology_reference(sample)
        found = [
            np.abs(np.interp(c.x, other.curves[name].x, other.curves[name].cdf) - c.cdf).max()
            for name, c in cosmos.curves.items()
        ]
        found += [
            0.5
            * np.abs(p.counts / p.counts.sum() - other.planes[n].counts / other.planes[n].counts.sum()).sum()
            for n, p in cosmos.planes.items()
        ]
        np.testing.assert_allclose(found, expected, atol=0.006)
    with pytest.raises(ValueError, match="sample: expected one of cosmos, parametric, mock"):
        morphology_reference("sdss")


def test_the_paper_asks_for_good_moments_in_all_panels_but_one():
    from hiergal.validation.morphology_reference import morphology_samples

    table = Table({name: np.full(4, 0.5) for name in ("m", "i", "d", "gini", "m20")})
    table["flag"] = [0, 0, 1, 0]
    samples = morphology_samples(table, np.array([True, False, True, True]))
    assert {name: len(values) for name, values in samples.items()} == {
        "log10_m": 2, "log10_i": 2, "d": 2, "m20_gini": 2, "d_log10_i": 3,
    }  # fmt: skip
