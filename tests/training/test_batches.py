"""Which galaxies a step sees, all alike or some more often, and that they come alike from memory and from disk."""

import jax
import numpy as np
import pytest
from conftest import awkward_psf
from toys import tiny_survey

from hiergal.model.nets.encoder import rough_flux
from hiergal.runtime.devices import galaxy_mesh
from hiergal.survey import StoreHeader, write_store
from hiergal.training.batches import batches_from, checksum_of, order_of, rough_fluxes, sampling_weights

STEPS, SHAPE = 60, (16, 24)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    header = StoreHeader(survey="tiny", band="V", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)
    batch = tiny_survey(50, SHAPE, awkward_psf(50))
    return write_store(tmp_path_factory.mktemp("store") / "tiny.zarr", header, [(batch, None)])


@pytest.mark.parametrize(("galaxies", "batch"), [(10, 4), (7, 7), (3, 8), (11, 3)])
def test_each_galaxy_comes_once_before_any_comes_again(galaxies, batch):
    order = order_of(1, galaxies, batch)
    rows = np.concatenate([order[step] for step in range(STEPS)])
    epochs = rows[: STEPS * batch // galaxies * galaxies].reshape(-1, galaxies)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(galaxies), (len(epochs), 1)))
    assert len(np.unique(epochs, axis=0)) > 1, "each epoch should have an order of its own"


def test_seeds_have_orders_of_their_own():
    assert order_of(1, 1000, 8)[5].tolist() == order_of(1, 1000, 8)[5].tolist()
    assert order_of(1, 1000, 8)[5].tolist() != order_of(2, 1000, 8)[5].tolist()


def test_favoured_galaxies_come_as_often_as_their_chances_say():
    """20,000 draws: five binomial standard errors for each of five galaxies (one failure in 300,000)."""
    weights = np.array([0.1, 0.2, 0.0, 0.3, 0.4])
    order = order_of(3, 5, 50, 7.0 * weights)
    counts = np.bincount(np.concatenate([order[step] for step in range(400)]), minlength=5)
    assert np.all(np.abs(counts - 20_000 * weights) <= 5 * np.sqrt(20_000 * weights * (1 - weights)))


def test_chances_grow_with_flux():
    survey = tiny_survey(50, SHAPE, awkward_psf(50))
    each = sampling_weights(survey, 0.5)
    assert abs(each.sum() - 1) < 1e-5 and each.min() > 0
    bright = np.argsort(survey.catalog["mag_auto"])[:5]
    assert each[bright].mean() > 1.5 * each.mean()
    np.testing.assert_allclose(sampling_weights(survey, 0.0), 1 / 50, rtol=1e-4)


@pytest.mark.parametrize("first", [0, 7])
def test_memory_and_disk_give_the_same_batches(store, first):
    order, mesh = order_of(0, len(store), 8), galaxy_mesh(jax.devices()[:1])
    memory = batches_from(store.read(), order, first, mesh)
    disk = batches_from(store.subset(np.arange(len(store))), order, first, mesh)
    for step in range(first, first + 3):
        (everything, rows), (batch, none) = next(memory), next(disk)
        assert none is None and np.array_equal(rows, order[step])
        jax.tree.map(np.testing.assert_array_equal, everything[rows], batch)


def test_a_part_of_a_store_is_read_when_it_is_asked_for(store):
    part = store.subset(np.array([4, 1, 40]))
    assert len(part) == 3
    np.testing.assert_array_equal(part[np.array([2, 0])].identifier, store.identifier[[40, 4]])
    assert store.galaxy_bytes == 4 * (16 * 24 + 5 * 9 + 1)


def test_fluxes_are_measured_a_part_at_a_time(store, monkeypatch):
    monkeypatch.setattr("hiergal.training.batches.GALAXIES_PER_CALL", 16)
    whole = store.read()
    np.testing.assert_allclose(rough_fluxes(store.subset(slice(None))), jax.jit(rough_flux)(whole), rtol=1e-5)


def test_a_checksum_tells_surveys_apart(store):
    whole = store.read()
    assert checksum_of(whole) == checksum_of(store.subset(slice(None)))
    others = (whole[:49], whole.replace(image=whole.image + 1))
    assert all(checksum_of(other) != checksum_of(whole) for other in others)
