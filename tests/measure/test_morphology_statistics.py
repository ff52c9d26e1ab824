"""Morphology without profiles: analytic truths, laws, planted structure, and an independent implementation."""

from functools import partial

import numpy as np
import pytest
from photutils.geometry import elliptical_overlap_grid
from scipy import ndimage, special

from hiergal.measure import cas, mid
from hiergal.measure.gini_m20 import gini, m20
from hiergal.measure.morphology import Flag, measure_morphology, measure_paper_morphology
from hiergal.measure.petrosian import Ellipse, overlap, petrosian_radius, radius_of_fraction
from hiergal.measure.segmentation import central_clump, main_clump

SCALE = 0.03


def sersic(shape, index, radius, *, q=1.0, angle=0.0, x=0.0, y=0.0, oversample=9):
    """A Sersic profile, integrated over pixels by sampling; unit brightness at the half-light radius."""
    b = special.gammaincinv(2 * index, 0.5)
    fine = (np.arange(oversample) + 0.5) / oversample - 0.5
    rows, columns = ((np.arange(n) - (n - 1) / 2)[:, None] + fine for n in shape)
    dy, dx = rows.ravel()[:, None] - y, columns.ravel() - x
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
    profile = np.exp(-b * (np.sqrt(u**2 * q + v**2 / q) / radius) ** (1 / index))
    return profile.reshape(shape[0], oversample, shape[1], oversample).mean(axis=(1, 3))


def growth(index, r):
    """Share of the light of a Sersic profile inside r half-light radii."""
    return special.gammainc(2 * index, special.gammaincinv(2 * index, 0.5) * r ** (1 / index))


def petrosian_of(index, eta=0.2):
    """Petrosian radius in half-light radii, by bisection on the analytic profile."""
    b = special.gammaincinv(2 * index, 0.5)
    norm = index * b ** (-2 * index) * special.gamma(2 * index)
    low, high = 0.1, 20.0
    for _ in range(60):
        r = (low + high) / 2
        mean = 2 * norm * growth(index, r) / r**2
        low, high = (r, high) if np.exp(-b * r ** (1 / index)) > eta * mean else (low, r)
    return low


def fraction_radius(index, fraction, total):
    """Radius that holds a share of the light inside a total radius."""
    b, inside = special.gammaincinv(2 * index, 0.5), growth(index, total)
    return (special.gammaincinv(2 * index, fraction * inside) / b) ** index


PROFILES = [
    pytest.param(0.5, 12.0, id="gaussian"),
    pytest.param(1.0, 10.0, id="exponential"),
    pytest.param(4.0, 28.0, id="de Vaucouleurs"),
]


@pytest.mark.parametrize(("index", "radius"), PROFILES)
def test_radii_and_concentration_of_analytic_profiles(index, radius):
    """On a non-square stamp, off the centre of a pixel, round and flattened; a cusp is sampled finely."""
    shape, x, y = (261, 251), 0.3, -0.2
    centre = (shape[1] - 1) / 2 + x, (shape[0] - 1) / 2 + y
    expected = petrosian_of(index)
    for q, angle in ((1.0, 0.0), (0.5, 0.6)):
        image = sersic(shape, index, radius, q=q, angle=angle, x=x, y=y)
        ellipse, unit = Ellipse(*centre, q, angle), radius / np.sqrt(q)
        found = petrosian_radius(image, np.ones(shape, bool), ellipse)
        np.testing.assert_allclose(found / unit, expected, rtol=0.01)
        radii = [radius_of_fraction(image, ellipse, f, 1.5 * found) / unit for f in (0.2, 0.5, 0.8)]
        truth = [fraction_radius(index, f, 1.5 * expected) for f in (0.2, 0.5, 0.8)]
        np.testing.assert_allclose(radii, truth, rtol=0.01)
        np.testing.assert_allclose(
            5 * np.log10(radii[2] / radii[0]), 5 * np.log10(truth[2] / truth[0]), rtol=0.01
        )


@pytest.mark.parametrize(("index", "radius"), PROFILES)
def test_gini_and_m20_of_analytic_profiles(index, radius):
    """Inside the isophote at the Petrosian radius, where both are integrals over a circle."""
    shape, x, y = (261, 251), 0.3, -0.2
    edge = petrosian_of(index)
    image = sersic(shape, index, radius, x=x, y=y)
    inside = image > np.exp(-special.gammaincinv(2 * index, 0.5) * edge ** (1 / index))
    # Exactly: f(s) is the brightness at s = r^2 / r_edge^2, uniform in area; Gini = 1 - 2 int (1 - s) f / int f, seen
    # from the brightest; the second moment weighs with r^2.
    s = (np.arange(2_000_000) + 0.5) / 2_000_000
    f = np.exp(-special.gammaincinv(2 * index, 0.5) * (np.sqrt(s) * edge) ** (1 / index))
    flux = np.cumsum(f) / f.sum()
    exact_gini = 2 * flux.mean() - 1
    exact_m20 = np.log10((f * s)[flux <= 0.2].sum() / (f * s).sum())
    np.testing.assert_allclose(gini(image[inside]), exact_gini, rtol=0.01)
    np.testing.assert_allclose(m20(np.where(inside, image, 0)), exact_m20, rtol=0.01)


def test_the_whole_measurement_finds_the_analytic_numbers():
    index, radius = 1.0, 6.0
    images = np.stack(
        [
            sersic((129, 121), index, radius, x=0.3, y=-0.2),
            sersic((129, 121), index, radius, q=0.5, angle=0.6),
        ]
    )
    table = measure_morphology(images, 1e-3, pixel_scale_arcsec=SCALE)
    assert (table["flag"] == 0).all()
    petrosian = petrosian_of(index)
    np.testing.assert_allclose(
        table["petrosian_elliptical_arcsec"] * np.sqrt(table["axis_ratio"]),
        petrosian * radius * SCALE,
        rtol=0.01,
    )
    r50 = fraction_radius(index, 0.5, 1.5 * petrosian) * radius * SCALE
    np.testing.assert_allclose(table["r50_elliptical_arcsec"] * np.sqrt(table["axis_ratio"]), r50, rtol=0.01)
    np.testing.assert_allclose(table["axis_ratio"], [1.0, 0.5], rtol=0.01)
    np.testing.assert_allclose(table["asymmetry"], 0, atol=0.02)
    assert table["petrosian_arcsec"].unit == "arcsec"


@pytest.mark.parametrize(
    "turn", [lambda a: a[..., ::-1, :], lambda a: a[..., ::-1], lambda a: np.swapaxes(a, -1, -2)]
)
def test_turning_the_stamps_changes_nothing(turn):
    rng = np.random.default_rng(3)
    images = np.stack([lumpy(rng) for _ in range(4)])
    here, there = (
        measure_morphology(i, 0.01, workers=1, pixel_scale_arcsec=0.03) for i in (images, turn(images))
    )
    for name in set(here.colnames) - {
        "smoothness"
    }:  # its boxes of an even width, and its box of sky, do not turn along
        # The simplex that finds the centre is not symmetric itself, and asymmetry has many minima where there is noise.
        rtol = 0.05 if name == "asymmetry" else 5e-3
        np.testing.assert_allclose(there[name], here[name], rtol=rtol, atol=2e-3, err_msg=name)


def test_brighter_images_have_the_same_numbers():
    rng = np.random.default_rng(4)
    images = np.stack([lumpy(rng) for _ in range(3)])
    here, there = (
        measure_morphology(images, 0.01, workers=1, pixel_scale_arcsec=0.03),
        measure_morphology(1024 * images, 10.24, workers=1, pixel_scale_arcsec=0.03),
    )
    for name in here.colnames:
        np.testing.assert_allclose(there[name], here[name], rtol=1e-6, atol=1e-9, err_msg=name)


def lumpy(rng, shape=(90, 97)):
    """A galaxy with knots and noise, off the centre."""
    image = 5 * sersic(shape, 1.0, 9.0, q=0.6, angle=rng.uniform(0, np.pi), x=0.3, y=-0.4, oversample=3)
    for _ in range(4):
        image += rng.uniform(0.5, 3) * sersic(
            shape, 0.5, 2.0, x=rng.normal(0, 6), y=rng.normal(0, 6), oversample=3
        )
    return image + 0.01 * rng.normal(size=shape)


def test_a_second_nucleus_is_seen():
    """M, I and D of a galaxy with a nucleus of a third of its flux, ten pixels out, against the galaxy alone."""
    rng = np.random.default_rng(5)
    plain = sersic((96, 96), 1.0, 5.0, oversample=3)
    nucleus = sersic((96, 96), 0.5, 2.5, x=10.0, y=-2.0, oversample=3)
    both = plain + nucleus * (plain.sum() / 3) / nucleus.sum()
    noise = 0.01 * plain.max() * rng.normal(size=(2, 96, 96))
    for table, m, i, d in (
        (
            measure_morphology(noise + [plain, both], 0.01 * plain.max(), pixel_scale_arcsec=0.03),
            "multimode",
            "intensity",
            "deviation",
        ),
        (measure_paper_morphology(noise + [plain, both]), "m", "i", "d"),
    ):
        assert table[m][1] > max(10 * table[m][0], 0.05)
        assert table[i][1] > 0.15 > table[i][0]
        assert table[d][1] > table[d][0] + 0.1


def test_intensity_is_the_ratio_of_fluxes():
    groups = mid.light_groups(sersic((60, 70), 0.5, 4.0, x=-15) + 0.3 * sersic((60, 70), 0.5, 4.0, x=15))
    np.testing.assert_allclose(mid.intensity(groups), 0.3, rtol=1e-3)
    assert mid.intensity(mid.light_groups(sersic((60, 70), 0.5, 4.0))) == 0


def multimode_by_brute_force(image):
    """Every threshold, one after the other."""
    from scipy import ndimage

    best = (0.0, 0, 0)
    for value in np.unique(image[image > 0]):
        regions, count = ndimage.label(image >= value, np.ones((3, 3)))
        sizes = np.sort(np.bincount(regions.ravel())[1:])[::-1]
        if count > 1 and sizes[1] ** 2 / sizes[0] > best[0]:
            best = (sizes[1] ** 2 / sizes[0], sizes[0], sizes[1])
    return best


@pytest.mark.parametrize("seed", range(6))
def test_multimode_is_the_largest_there_is(seed):
    rng = np.random.default_rng(seed)
    image = np.maximum(lumpy(rng, (31, 40)) - 0.8, 0)
    found = mid.multimode(image)
    best, first, second = multimode_by_brute_force(image)
    np.testing.assert_allclose(found.value("freeman2013"), best)
    np.testing.assert_allclose(found.value("peth2016"), second / first)
    np.testing.assert_allclose(found.value("lanusse2020"), best / (image > 0).sum())
    assert mid.multimode(image, levels=40).value("freeman2013") <= best


def test_turned_is_a_rotation():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(12, 17))
    np.testing.assert_allclose(cas.turned(image, 8.0, 5.5), image[::-1, ::-1])
    from skimage.transform import rotate

    for x, y in ((7.3, 4.8), (0.2, 11.0), (16.0, 0.4)):
        np.testing.assert_allclose(cas.turned(image, x, y), rotate(image, 180, center=(x, y)), atol=1e-12)


def test_regions_grow_to_the_brightness_that_is_asked_for():
    """On an exponential disc without noise, the edge is where the analytic ratio is eta."""
    image = sersic((128, 128), 1.0, 8.0, oversample=3)
    region = main_clump(image)
    edge = image[region].min()
    np.testing.assert_allclose(edge / image[region].mean(), 0.2, rtol=0.03)
    grown = central_clump(image + 1e-9 * np.arange(128))
    assert 0.1 < image[grown].min() / image[grown].mean() < 0.25


def test_failures_keep_their_rows():
    good = lumpy(np.random.default_rng(6), (96, 96))
    bad = good.copy()
    bad[40, 45] = np.nan
    images = np.stack([good, bad, np.zeros_like(good), -good, np.ones_like(good)])
    table = measure_morphology(images, 0.01, pixel_scale_arcsec=0.03)
    assert len(table) == 5
    assert table["flag"][0] == 0
    flags = [Flag(int(flag)) for flag in table["flag"]]
    assert Flag.NOT_FINITE in flags[1] and Flag.NO_SOURCE in flags[2] and Flag.NO_SOURCE in flags[3]
    assert Flag.NO_PETROSIAN in flags[4]
    assert np.isnan(table["gini"][1:]).all()
    paper = measure_paper_morphology(images)
    assert (paper["flag"][:3] == 0).tolist() == [True, False, False]


def test_peaks_of_noise_have_a_flag():
    """Their elliptical aperture may be a pixel without any light of theirs; such stamps ended whole validations."""
    rng = [np.random.default_rng(seed) for seed in (12, 299, 482, 486)]
    noise = np.stack([ndimage.gaussian_filter(r.normal(size=(48, 48)), 0.7) for r in rng])
    noise /= noise.std(axis=(1, 2), keepdims=True)
    table = measure_morphology(noise, np.ones(len(noise)), workers=1, pixel_scale_arcsec=0.03)
    assert (table["flag"] != 0).all() and np.isnan(table["multimode"]).all()


@pytest.mark.parametrize("rounding", [1e-16, 1e-15, 1e-12])
@pytest.mark.parametrize("angle", [-0.0769, -0.4977, 0.3, np.pi / 4])
def test_apertures_that_are_round_but_for_rounding_have_their_area(rounding, angle):
    for radius in (0.5, 1.0, 2.5, 8.0):
        shares = overlap((48, 48), Ellipse(23.5, 23.5, 1 - rounding, angle), radius)
        assert shares.sum() == pytest.approx(np.pi * radius**2)


@pytest.mark.parametrize("seed", range(20))
def test_elliptical_apertures_cut_pixels_as_photutils_does(seed):
    """On non-square stamps, centred anywhere, partly or wholly outside, from a fraction of a pixel to all of it."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        (ny, nx), radius, angle = rng.integers(2, 25, 2), rng.uniform(0.05, 20), rng.uniform(-4, 4)
        ellipse = Ellipse(rng.uniform(-3, nx + 3), rng.uniform(-3, ny + 3), rng.uniform(0.02, 0.999), angle)
        edges = -0.5 - ellipse.x, nx - 0.5 - ellipse.x, -0.5 - ellipse.y, ny - 0.5 - ellipse.y
        expected = elliptical_overlap_grid(
            *edges, int(nx), int(ny), radius, radius * ellipse.axis_ratio, angle, 1, 1
        )
        np.testing.assert_allclose(overlap((int(ny), int(nx)), ellipse, radius), expected, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, -np.pi / 2, np.pi])
@pytest.mark.parametrize("axis_ratio", [0.2, 0.5, 1 - 1e-6])
def test_ellipses_that_touch_the_edges_of_pixels_have_their_area(axis_ratio, angle):
    for radius in (0.5, 1.5, 2.5, 7.5):
        for centre in (20.0, 20.5):
            shares = overlap((41, 42), Ellipse(centre, centre, axis_ratio, angle), radius)
            assert shares.sum() == pytest.approx(np.pi * axis_ratio * radius**2)
            assert shares.min() == 0 and shares.max() <= 1


def test_bad_input_is_named():
    image = np.ones((1, 64, 64))
    measure = partial(getattr(measure_morphology, "__wrapped__", measure_morphology), pixel_scale_arcsec=0.03)
    with pytest.raises(ValueError, match="expected stamps of shape"):
        measure(image[0], 0.1)
    with pytest.raises(ValueError, match="noise_rms: expected positive"):
        measure(image, 0.0)
    with pytest.raises(ValueError, match="masks: expected the shape"):
        measure(image, 0.1, masks=np.zeros((1, 3, 3), bool))
    with pytest.raises(ValueError, match="expected at least 64x64"):
        measure_paper_morphology(image[:, :40])


def test_a_peak_of_several_pixels_is_one():
    image = sersic((40, 40), 1.0, 4.0)  # the centre is a corner of four pixels
    assert len(mid.light_groups(image).flux) == 1
