"""Steps of the guide through the physics: exact for linear images, and never a way to lose a galaxy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.model.guide import output_count, posterior_from
from hiergal.model.refinement import refined

D = 5


def linear(rng, observation):
    """Images that are linear in the latents, and the normal equations of each galaxy's posterior, by NumPy."""
    n, ny, nx = observation.image.shape
    basis = jnp.asarray(rng.normal(size=(n, D, ny, nx)))

    def image_of(z):
        return jnp.einsum("nd,ndyx->nyx", z, basis)

    def whitened(image):
        return np.asarray(observation.noise.whiten(jnp.asarray(image), observation.mask)).reshape(n, -1)

    rows = np.stack([whitened(basis[:, i]) for i in range(D)], axis=1)
    data = whitened(observation.image)
    return image_of, rows, data


def outputs_of(mean, covariance, structure):
    """What a network would have to say for this mean and covariance."""
    factor = np.linalg.cholesky(covariance)
    scale = np.diagonal(factor, axis1=1, axis2=2)
    g = {"full": D, "diagonal": 0}.get(structure, structure)
    rows, columns = np.tril_indices(g, -1)
    below = (factor / scale[..., None])[:, rows, columns]
    return jnp.asarray(np.concatenate([mean, np.log(scale), below], axis=1))


@pytest.mark.parametrize("noise", ["white", "stationary"])
@pytest.mark.parametrize("masked", [False, True])
def test_one_step_finds_the_mode_of_a_linear_model(x64, rng, make_observation, noise, masked):
    """With the posterior's own covariance a Newton step is exact, for masked and correlated noise too."""
    observation = make_observation(noise, n=3, shape=(8, 9), masked=masked)
    image_of, rows, data = linear(rng, observation)
    # Data that the model made, so that no misfit counts as noise.
    truth = rng.normal(size=(3, D))
    pixels = data.shape[1]
    shrink = 0.5 * np.sqrt(pixels) / np.linalg.norm(data, axis=1)
    observation = observation.replace(
        image=np.asarray(image_of(jnp.asarray(truth))) + shrink[:, None, None] * observation.image
    )
    data = np.einsum("ndp,nd->np", rows, truth) + shrink[:, None] * data
    precision = np.einsum("nip,njp->nij", rows, rows) + np.eye(D)
    mode = np.linalg.solve(precision, np.einsum("nip,np->ni", rows, data)[..., None])[..., 0]
    covariance = np.linalg.inv(precision)
    start = mode + 0.02 * np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.normal(size=(3, D)))
    outputs = outputs_of(start, covariance, "full")
    assert output_count(D, "full") == outputs.shape[1]
    found = posterior_from(refined(outputs, observation, image_of, "full", 1), "full")
    error = np.abs(found.mean - mode).max() / np.abs(start - mode).max()
    assert error < 1e-3
    np.testing.assert_allclose(found.covariance_matrix, covariance, rtol=1e-8)


@pytest.mark.parametrize("structure", ["diagonal", 2, "full"])
def test_steps_go_uphill_with_any_guide(x64, rng, make_observation, structure):
    """With a covariance that is not the posterior's, each step still raises the posterior of each galaxy."""
    observation = make_observation("white", n=3, shape=(8, 9))
    image_of, rows, data = linear(rng, observation)
    outputs = outputs_of(rng.normal(size=(3, D)), 0.01 * np.stack([np.eye(D)] * 3), structure)

    def depth(outputs):
        z = np.asarray(posterior_from(outputs, structure).mean)
        r = np.einsum("ndp,nd->np", rows, z) - data
        pixels = data.shape[1]
        return pixels * np.log(np.maximum(1, (r**2).sum(1) / pixels)) + (z**2).sum(1)

    depths = [depth(refined(outputs, observation, image_of, structure, steps)) for steps in (0, 1, 4)]
    assert (depths[1] < depths[0]).all() and (depths[2] < depths[1]).all()


def test_training_does_not_look_through_the_steps(rng, make_observation):
    observation = make_observation("white", n=2, shape=(8, 9))
    image_of, _, _ = linear(rng, observation)
    outputs = outputs_of(rng.normal(size=(2, D)), np.stack([np.eye(D)] * 2), "full").astype(jnp.float32)
    jacobian = jax.jacrev(lambda x: refined(x, observation, image_of, "full", 2).sum(0))(outputs)
    np.testing.assert_allclose(jacobian[:, 0], np.eye(outputs.shape[1]), atol=1e-6)


def test_a_galaxy_whose_image_is_not_finite_stays_where_the_network_put_it(rng, make_observation):
    observation = make_observation("white", n=2, shape=(8, 9))
    image_of, _, _ = linear(rng, observation)
    outputs = outputs_of(rng.normal(size=(2, D)), np.stack([np.eye(D)] * 2), "full").astype(jnp.float32)

    def broken(z):
        return image_of(z).at[0].set(jnp.nan)

    found = refined(outputs, observation, broken, "full", 1)
    np.testing.assert_array_equal(found[0], outputs[0])
    assert np.isfinite(found[1]).all() and np.abs(found[1] - outputs[1]).max() > 0
