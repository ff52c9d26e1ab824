"""The trained range: what is asked for is drawn where the model knows galaxies, and nowhere silently else."""

import warnings

import galsim
import jax
import numpy as np
import pytest
from astropy.table import Table
from toys import drawing_model, tiny_model

import hiergal
from hiergal import GenerativeGalaxyModel
from hiergal.model.conditions import outside_range
from hiergal.model.trained_range import check_outside, check_range, percent
from hiergal.survey.mock.population import draw_population

NAMES = ("mag_auto", "flux_radius", "zphot")
SENTINELS = {
    "mag_auto": (99.0, -99.0, 99.99, -999.0, 1e20, -1e30, 3e38, 0.0, -1.0, 30.0),
    "flux_radius": (-1.0, 0.0, -99.0, -999.0, 999.0, 99.0, 1e20),
    "zphot": (-1.0, -99.0, 99.0, 1e20, 0.0, 999.0),
}


@pytest.fixture(scope="module")
def acs():
    return hiergal.load_model("hub:mock-acs")


@pytest.fixture(scope="module")
def toy():
    return drawing_model()


def rows(*found):
    return np.array(found, np.float32)


def catalog(conditions):
    return dict(zip(NAMES, np.asarray(conditions).T, strict=True))


def test_unseen_galaxies_are_seldom_called_outside(acs):
    """Of the model's own survey: 1 in 1,600 (0.06 %) for 300,000, so 0.2 % of 20,000 is far above any fluctuation."""
    columns = draw_population(20000, seed=20201117)
    found = check_range(acs, np.stack([columns[name] for name in NAMES], axis=-1))
    assert found.by_density
    assert 0 < found.outside.mean() < 0.002
    assert found.far.mean() < 0.0003
    assert not check_range(acs, np.asarray(acs.population)).outside.any()


@pytest.mark.parametrize(
    ("row", "outside", "far"),
    [
        ((24.24, 8.5, 0.9), False, False),
        ((24.0, 20.0, 0.5), False, False),  # Fig. A1 of the paper
        ((20.0, 40.0, 0.3), False, False),
        ((25.0, 40.0, 0.9), True, True),  # in the range of each condition, and where no galaxy is
        ((25.0, 30.0, 0.9), True, False),
        ((22.0, 1.0, 0.7), True, True),
        ((19.0, 15.0, 5.0), True, True),
        ((25.6, 7.0, 0.9), True, False),
        ((17.3, 25.0, 0.1), True, False),
    ],
)
def test_combinations_count(acs, row, outside, far):
    found = check_range(acs, rows(row))
    assert (found.outside[0], found.far[0]) == (outside, far)
    assert outside_range(acs, rows(row))[0] == outside


@pytest.mark.parametrize("name", NAMES)
def test_placeholders_are_far(acs, name):
    table = np.tile(rows((23.0, 9.0, 0.7)), (len(SENTINELS[name]) + 3, 1))
    table[:, NAMES.index(name)] = (*SENTINELS[name], np.nan, np.inf, -np.inf)
    assert check_range(acs, table).far.all()


def test_every_way_of_drawing_asks_the_same(toy, drawing_folder):
    asked = catalog(rows((22.0, 9.0, 0.7), (99.0, 9.0, 0.7), (23.5, 13.5, 0.7)))
    generator, key = GenerativeGalaxyModel(drawing_folder), jax.random.key(0)
    doors = {
        "sample": lambda **how: [g.flux for g in generator.sample(asked, rng=galsim.BaseDeviate(1), **how)],
        "draw_galsim": lambda **how: [g.flux for g in hiergal.draw_galsim(toy, asked, key=key, **how)],
        "draw_profiles": lambda **how: (
            hiergal.draw_profiles(toy, asked, key=key, **how).sum(axis=(1, 2), dtype=float).tolist()
        ),
    }
    for draw in doors.values():
        with pytest.warns(
            UserWarning, match=r"2 of 3 galaxies \(67 %\) .* first: row 1 \(mag_auto 99, .*; 1 of"
        ):
            ordinary, placeholder, rare = draw()
        assert ordinary > 0 and rare > 0 and not placeholder > 0
        with pytest.raises(ValueError, match="2 of 3 galaxies"):
            draw(outside="raise")
        with pytest.raises(ValueError, match="outside: expected 'warn', 'raise' or 'ignore', got 'maybe'"):
            draw(outside="maybe")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*at the edge of the stamp")  # of random weights
            every = draw(outside="ignore")
        assert every[0] == ordinary and every[2] == rare and every[1] > 0


def test_what_is_not_drawn_can_be_handled_like_a_galaxy(drawing_folder):
    generator = GenerativeGalaxyModel(drawing_folder)
    with pytest.warns(UserWarning, match="not drawn"):
        dark, galaxy = generator.sample(
            catalog(rows((99.0, 9.0, 0.7), (22.0, 9.0, 0.7))),
            rng=galsim.BaseDeviate(1),
            flux=5.0,
            half_light_radius=0.3,
            magnitude_zero_point=30.0,
            psf=galsim.Gaussian(fwhm=0.6),
            noise=1e-4,
            noise_pad_size=2.0,
        )
    np.testing.assert_allclose([dark.flux, galaxy.flux], [0, 5])
    stamp = dark.shear(g1=0.1).rotate(20 * galsim.degrees).drawImage(nx=20, ny=20, scale=0.2)
    assert not stamp.array.any()


@pytest.mark.slow
def test_rows_of_a_population_have_no_false_bright_galaxy(acs):
    """A thousandth of placeholders, as surveys have them: nothing brighter than what was asked for is drawn."""
    columns = draw_population(3000, seed=5)
    table = np.stack([columns[name] for name in NAMES], axis=-1)
    table[::300, 0] = np.resize([99.0, -99.0, 1e20, -999.0, 0.0], 10)
    table[150::300, 1] = np.resize([-1.0, 999.0, 0.0], 10)
    table[200::300, 2] = np.resize([-99.0, 99.0], 10)
    with pytest.warns(UserWarning, match="of 3000 galaxies"):
        profiles = hiergal.draw_profiles(acs, catalog(table), key=jax.random.key(3))
    magnitude = 25.94 - 2.5 * np.log10(profiles.sum(axis=(1, 2), dtype=float))
    spoilt = np.isin(np.arange(3000) % 300, (0, 150, 200))
    assert np.isnan(magnitude[spoilt]).all()
    drawn = np.isfinite(magnitude)
    assert drawn[~spoilt].mean() > 0.999
    assert (magnitude[drawn] - columns["mag_auto"][drawn]).min() > -1.5


def test_galaxies_do_not_depend_on_what_is_left_out(toy):
    asked = catalog(rows((22.0, 9.0, 0.7), (99.0, 9.0, 0.7), (23.0, 8.0, 0.7)))
    key = jax.random.key(0)
    with pytest.warns(UserWarning):
        some = hiergal.draw_profiles(toy, asked, key=key)
    every = hiergal.draw_profiles(toy, asked, key=key, outside="ignore")
    np.testing.assert_array_equal(some[[0, 2]], every[[0, 2]])


def test_models_without_a_population_compare_each_condition_alone():
    model = tiny_model()  # knows the range of magnitudes alone
    found = check_range(model, rows((22.0, 1e4, 0.7), (26.0, 1e4, 0.7), (99.0, 8.0, 0.7)))
    assert not found.by_density
    np.testing.assert_array_equal(found.outside, [False, True, True])
    np.testing.assert_array_equal(found.far, [False, False, True])
    with pytest.warns(UserWarning, match="each alone: this model has no population"):
        check_outside(model, rows((26.0, 1e4, 0.7)), "warn")


@pytest.mark.parametrize("count", [0, 1])
def test_few_rows(toy, count):
    asked = np.tile(rows((22.0, 9.0, 0.7)), (count, 1))
    assert hiergal.draw_profiles(toy, catalog(asked), key=jax.random.key(0)).shape == (count, 32, 32)
    assert len(hiergal.draw_galsim(toy, catalog(asked), key=jax.random.key(0))) == count


def test_degenerate_populations(toy):
    """Constant columns, columns that follow from each other, and few galaxies: a limit, or the ranges alone."""
    names = NAMES
    population = np.array(toy.population)
    population[:, 2] = 0.5
    population[:, 1] = 2 * population[:, 0]
    ranges = {name: (float(c.min()), float(c.max())) for name, c in zip(names, population.T, strict=True)}
    import msgspec

    provenance = msgspec.structs.replace(toy.provenance, condition_ranges=ranges)
    model = toy.replace(population=population, provenance=provenance)
    found = check_range(model, rows((22.0, 44.0, 0.5), (22.0, 47.0, 0.5), (22.0, 44.0, 0.7)))
    np.testing.assert_array_equal(found.outside, [False, True, True])
    few = model.replace(population=population[:10])
    assert not check_range(few, rows((22.0, 47.0, 0.5))).by_density


def test_a_refused_request_takes_no_random_numbers(drawing_folder):
    generator, rng = GenerativeGalaxyModel(drawing_folder), galsim.BaseDeviate(5)
    state = rng.serialize()
    bright = {"mag_auto": np.full(3, 12.0)}
    with pytest.raises(ValueError, match="3 of 3 galaxies"):
        generator.sample(
            bright | {"flux_radius": np.full(3, 9.0), "zphot": np.full(3, 0.7)}, rng=rng, outside="raise"
        )
    with pytest.raises(ValueError, match="3 of 3 galaxies"):
        generator.sample(bright, rng=rng, outside="raise", missing="population")
    assert rng.serialize() == state


@pytest.mark.parametrize(
    ("fraction", "words"),
    [(1.0, "100 %"), (0.999, "99.90 %"), (0.25, "25 %"), (0.0123, "1.2 %"), (1e-6, "0.0001 %"), (0.0, "0 %")],
)
def test_percentages_are_written_as_people_do(fraction, words):
    assert percent(fraction) == words


class TestIdentifiers:
    """A key column: a galaxy follows its identifier, not its row."""

    table = Table(catalog(rows((22.0, 9.0, 0.7), (22.5, 8.0, 0.5), (23.0, 8.0, 0.7), (21.5, 10.0, 0.3))))

    @pytest.mark.parametrize(
        "names",
        [
            [36411448540268969, 36411448540268970, 36411448540268971, -5],
            ["a", "b", "ä", "d"],
        ],
    )
    def test_rows_may_be_dropped_and_sorted(self, toy, drawing_folder, names):
        table = Table(self.table)
        table["id"] = names
        key, generator = jax.random.key(0), GenerativeGalaxyModel(drawing_folder)
        whole = hiergal.draw_profiles(toy, table, key=key, identifier="id")
        np.testing.assert_array_equal(
            hiergal.draw_profiles(toy, table[[3, 1]], key=key, identifier="id"), whole[[3, 1]]
        )
        assert len(np.unique(whole[:, 16, 16])) == 4

        def pixels(rows):
            found = generator.sample(rows, rng=galsim.BaseDeviate(4), identifier="id")
            return np.array([galaxy.image.array for galaxy in found])

        np.testing.assert_array_equal(pixels(table[[3, 1]]), pixels(table)[[3, 1]])
        first, second = galsim.BaseDeviate(1), galsim.BaseDeviate(1)
        generator.sample(table, rng=first, identifier="id")
        generator.sample(table[:1], rng=second, identifier="id")
        assert first == second and first != galsim.BaseDeviate(1)

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([1, 2, 2, 3], "id: expected one galaxy for each, got 1 of them more than once .such as 2"),
            ([1.0, 2.0, 3.0, 4.0], "id: expected integers or text, got float64"),
            (np.ma.array([1, 2, 3, 4], mask=[0, 0, 1, 0]), "id: expected an identifier in each row"),
            (None, "expected a column 'id' in the catalogue"),
        ],
    )
    def test_what_is_no_identifier_is_refused(self, toy, column, message):
        table = Table(self.table)
        if column is not None:
            table["id"] = column
        with pytest.raises(ValueError, match=message):
            hiergal.draw_profiles(toy, table, key=jax.random.key(0), identifier="id")

    def test_numbers_are_normal(self):
        from scipy.stats import kstest

        from hiergal.runtime.identities import identities, identity_normals

        found = identity_normals(7, identities({"id": np.arange(20000)}, "id"), 4)
        assert kstest(found.ravel(), "norm").pvalue > 1e-3
        assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 5 / np.sqrt(20000)
