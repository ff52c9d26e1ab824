"""The framed networks: dense twins of the profile, laws of frame and canvas, and the guide's distribution."""

import galsim
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.interpolate import BSpline

from hiergal.model.architecture import encoder_of, generator_of, image_of, renderer_of
from hiergal.model.guide import output_count, posterior_from
from hiergal.model.leading_normal import LeadingNormal
from hiergal.model.nets.framed import structure
from hiergal.model.nets.framed.frame import (
    ELLIPSE,
    Ellipse,
    ellipse_from,
    from_canvas,
    from_sky,
    to_canvas,
    to_sky,
)
from hiergal.model.nets.framed.gaussians import WIDTHS, gaussian_forms, gaussian_mixture, sersic_log_shares
from hiergal.model.nets.framed.generator import FramedGenerator
from hiergal.recipe.framed_config import FramedEncoderConfig, FramedGeneratorConfig
from hiergal.recipe.recipe import Recipe, parse_recipe, recipe_to_toml
from hiergal.training.elbo import kl_per_latent

CONFIG = FramedGeneratorConfig(
    cells=4, local_latents=3, features=16, channels=16, log_flux_mean=3.0, log_flux_spread=0.5
)
G = CONFIG.global_latents
FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))


def latents(key, n, radius=None):
    """Unit-normal latents, of galaxies of one radius where it is given."""
    z = jax.random.normal(key, (n, CONFIG.latents))
    if radius is not None:
        offset, spread = ELLIPSE["log_radius_pix"][:2]
        z = z.at[:, 3].set((np.log(radius) - offset) / spread)
    return z


def trained(shape, blur_pix=0.5, step=1.0):
    """A generator whose weights are as uneven as after a training, on any stamp."""
    network = FramedGenerator(CONFIG, shape, blur_pix, step)
    params = network.init(jax.random.key(0), jnp.zeros((1, CONFIG.latents)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, noisy)
    return jax.jit(lambda z: network.apply(params, z))


def test_flux_is_that_on_the_plane(key):
    """exp(mean + spread z) whatever the other latents do, on a stamp that holds all of the light."""
    z = latents(key, 8, radius=12.0).at[:, 4:6].multiply(0.7).at[:, 6].multiply(0.3)
    profile = trained((240, 248))(z)
    assert (profile >= 0).all()
    np.testing.assert_allclose(profile.sum((1, 2)), np.exp(3.0 + 0.5 * z[:, 0]), rtol=3e-3)


def test_a_larger_stamp_shows_the_same_pixels(key):
    z = latents(key, 4)
    small, large = trained((24, 40))(z), trained((48, 56))(z)
    np.testing.assert_allclose(large[:, 12:36, 8:48], small, rtol=1e-4, atol=1e-5 * float(small.max()))


@pytest.mark.parametrize("factor", [2, 3])
def test_finer_pixels_show_the_same_galaxy(key, factor):
    """Surface brightness at the middles of the coarse pixels, on stamps whose centres agree."""
    z = latents(key, 4)
    coarse = trained((33, 35))(z)
    fine = trained((32 * factor + 1, 34 * factor + 1), step=1 / factor)(z)
    found = fine[:, ::factor, ::factor] * factor**2
    np.testing.assert_allclose(found, coarse, atol=1e-4 * float(coarse.max()))


def test_the_middle_of_the_prior_is_a_sersic_profile():
    """Without structure, light is that of GalSim's Sersic profile, blurred with the same Gaussian."""
    config = msgspec.structs.replace(CONFIG, log_flux_mean=0.0, log_flux_spread=1.0)
    network = FramedGenerator(config, (64, 80), 1.0)
    z = jnp.zeros((1, config.latents)).at[:, 4].set(1.0)
    params = network.init(jax.random.key(0), z)
    params = jax.tree.map(jnp.zeros_like, params)
    found = np.asarray(network.apply(params, z)[0])
    shear = galsim.Shear(eta1=2 * ELLIPSE["shear_1"][1], eta2=0.0)
    truth = galsim.Sersic(n=1.3, half_light_radius=8.0).shear(shear)
    blurred = galsim.Convolve(truth, galsim.Gaussian(sigma=1.0))
    expected = blurred.drawImage(nx=80, ny=64, scale=1.0, method="no_pixel").array
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


@pytest.mark.parametrize("index", [0.5, 1.0, 2.5, 4.0])
def test_shares_make_sersic_profiles(index):
    """Light inside of each radius, to 1.5 % of the total, and the half-light radius to 2 %."""
    shares = np.exp(np.asarray(sersic_log_shares(jnp.log(jnp.array([index])))[0], float))
    shares /= shares.sum()
    radii = np.geomspace(0.1, 5.0, 60)
    found = (shares * (1 - np.exp(-0.5 * (radii[:, None] / WIDTHS) ** 2))).sum(axis=1)
    truth = galsim.Sersic(n=index, half_light_radius=1.0)
    expected = np.array([_inside(truth, radius) for radius in radii])
    np.testing.assert_allclose(found, expected, atol=0.015)
    np.testing.assert_allclose(np.interp(0.5, found, radii), 1.0, atol=0.02)


def _inside(profile, radius):
    """Light of a round profile inside a radius, by its own definition."""
    from scipy import special

    from hiergal.measure.sersic import sersic_constants

    b = sersic_constants(profile.n)[0]
    return special.gammainc(2 * profile.n, b * radius ** (1 / profile.n))


def test_blurred_gaussians_are_dense_convolutions(x64):
    """Quadratic forms and peaks against GalSim's sheared and convolved Gaussians."""
    e = Ellipse(*(jnp.array([v]) for v in (0.0, 0.0, 0.0, np.log(3.0), 0.4, -0.3, 0.0)))
    forms, peaks = gaussian_forms(e, jnp.full((1, len(WIDTHS)), 0.7), 1.2)
    y, x = np.mgrid[-15:16, -18:19].astype(float)
    j = 7
    found = gaussian_mixture(forms[:, j : j + 1], peaks[:, j : j + 1], x.reshape(1, -1), y.reshape(1, -1))
    shear = galsim.Shear(eta1=2 * 0.7 * 0.4, eta2=-2 * 0.7 * 0.3)
    twin = galsim.Convolve(galsim.Gaussian(sigma=3.0 * WIDTHS[j]).shear(shear), galsim.Gaussian(sigma=1.2))
    expected = twin.drawImage(nx=37, ny=31, scale=1.0, method="no_pixel", dtype=float).array
    np.testing.assert_allclose(found.reshape(31, 37), expected, atol=1e-4 * expected.max())


def test_frame_and_sky_are_inverse_and_keep_areas(x64, key):
    e = ellipse_from(jax.random.normal(key, (5, 7)))
    u, v = jax.random.normal(jax.random.key(2), (2, 5, 11))
    x, y = to_sky(e, u, v)
    np.testing.assert_allclose(from_sky(e, x, y), (u, v), atol=1e-9)

    def place(w, e):
        one = jax.tree.map(lambda a: a[None], e)
        return jnp.stack(to_sky(one, w[None, :1], w[None, 1:]))[:, 0, 0]

    jacobians = jax.vmap(jax.jacfwd(place))(jnp.stack([u[:, 0], v[:, 0]], axis=1), e)
    np.testing.assert_allclose(np.linalg.det(jacobians), np.exp(2 * e.log_radius_pix), rtol=1e-8)


def test_the_canvas_is_the_frame_with_its_outskirts_drawn_in(x64, rng):
    s, t = rng.uniform(-1.2, 1.2, (2, 1, 50))
    u, v = from_canvas(s, t, 4.5)
    np.testing.assert_allclose(to_canvas(u, v, 4.5), (s, t), atol=1e-5)
    np.testing.assert_allclose(np.arctan2(v, u), np.arctan2(t, s), atol=1e-6)
    at, _ = from_canvas(np.array([0.01, 0.5, 1.0]), np.zeros(3), 4.5)
    assert at[2] == pytest.approx(4.5) and at[0] / 0.01 < at[1] / 0.5 < at[2]


def test_splines_are_those_of_scipy(rng):
    """Cubic splines along a line and on a lattice against SciPy's, zero beyond all nodes."""
    values = rng.normal(size=(2, 9)).astype(np.float32)
    place = rng.uniform(-6, 15, (2, 200)).astype(np.float32)
    knots = np.arange(-5.0, 15.0)  # zero coefficients on either side make all of the line ordinary
    for row, at, found in zip(values, place, structure.spline(values, place), strict=True):
        twin = BSpline(knots, np.pad(row, (3, 4)), 3, extrapolate=False)
        np.testing.assert_allclose(found, np.nan_to_num(twin(at)), atol=1e-5)
    lattice = rng.normal(size=(2, 9, 9)).astype(np.float32)
    s, t = rng.uniform(-1.4, 1.4, (2, 2, 200)).astype(np.float32)
    found = structure.field(lattice, s, t)
    for i in range(2):
        # One coefficient after the other along each axis.
        basis = [
            structure.spline(np.eye(9, dtype=np.float32), (a[i : i + 1] + 1) * 4.5 - 0.5) for a in (s, t)
        ]
        expected = np.einsum("ts,tp,sp->p", lattice[i], basis[1], basis[0])
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_points_of_all_galaxies_are_those_of_each(rng):
    lattice = rng.normal(size=(3, 8, 8)).astype(np.float32)
    s, t = rng.uniform(-1, 1, (2, 1, 20)).astype(np.float32)
    each = structure.field(lattice, *(np.repeat(a, 3, axis=0) for a in (s, t)))
    np.testing.assert_array_equal(structure.field(lattice, s, t), each)


def test_structure_leaves_ring_means_alone(rng):
    """exp(T) over its ring mean has the mean one on rings between those that are computed."""
    lattice = 1.5 * rng.normal(size=(1, 16, 16)).astype(np.float32)
    on, angle = structure.rings(4.5), np.linspace(0, 2 * np.pi, 720, endpoint=False)
    means = structure.log_ring_means(structure.field(lattice, on.s, on.t))
    for radius in np.linspace(0.1, 0.9, 9):
        s, t = (np.float32(radius * a)[None] for a in (np.cos(angle), np.sin(angle)))
        contrast = structure.divide_by_ring_means(
            structure.field(lattice, s, t), means, np.full((1, 720), radius, np.float32)
        )
        np.testing.assert_allclose(contrast.mean(), 1.0, atol=0.05)
        assert contrast.std() > 0.2


def test_areas_of_rings_cover_the_canvas():
    on = structure.rings(4.5)
    inside = np.hypot(on.u, on.v) < 4.5
    np.testing.assert_allclose(on.areas[inside].sum(), np.pi * 4.5**2, rtol=0.02)
    gaussian = np.exp(-0.5 * (on.u**2 + on.v**2)) / (2 * np.pi)
    np.testing.assert_allclose((gaussian * on.areas).sum(), 1.0, rtol=2e-3)


@pytest.mark.parametrize("distance", [30.0, 1e4])
def test_latents_far_from_all_others_give_finite_profiles(distance, rng):
    draw = trained((24, 32))
    z = jnp.asarray(distance * rng.normal(size=(30, CONFIG.latents)).astype(np.float32))
    assert np.isfinite(draw(z)).all() and (draw(z) >= 0).all()
    gradient = jax.grad(lambda z: draw(z).sum())(z)
    assert np.isfinite(gradient).all()


def test_a_normal_with_leading_correlations_is_the_dense_one(x64, rng):
    """Density, draws, moments and divergence, against the multivariate normal with the whole covariance."""
    d, g = 7, 3
    table = jnp.asarray(0.5 * rng.normal(size=(4, output_count(d, g))))
    q = posterior_from(table, g)
    assert isinstance(q, LeadingNormal) and q.event_shape == (d,)
    factor = np.zeros((4, d, d))
    factor[:, :g, :g] = q.scale_tril
    factor[:, range(g, d), range(g, d)] = q.scale
    dense = dist.MultivariateNormal(q.mean, scale_tril=jnp.asarray(factor))
    z = q.sample(jax.random.key(0), (5,))
    np.testing.assert_allclose(q.log_prob(z), jnp.stack([dense.log_prob(one) for one in z]), rtol=1e-10)
    np.testing.assert_allclose(q.variance, dense.variance, rtol=1e-12)
    np.testing.assert_allclose(q.covariance_matrix, dense.covariance_matrix, rtol=1e-12)
    p = dist.Normal(jnp.zeros((4, d)), 1.0).to_event(1)
    np.testing.assert_allclose(kl_per_latent(q, p), kl_per_latent(dense, p), rtol=1e-10)
    noise = rng.normal(size=(20_000, 4, d))
    covariance = np.cov(np.asarray(q.from_base(jnp.asarray(noise)))[:, 0].T)
    expected = factor[0] @ factor[0].T
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / len(noise))
    assert (
        np.abs(covariance - expected) < 5 * error
    ).all()  # 49 numbers at 5 sigma: fails once in 70,000 keys


def test_all_latents_correlated_is_a_full_covariance(rng):
    table = jnp.asarray(rng.normal(size=(2, output_count(5, "full"))).astype(np.float32))
    one, other = posterior_from(table, 5), posterior_from(table, "full")
    np.testing.assert_array_equal(one.scale_tril, other.scale_tril)


RECIPE = Recipe(
    shape=(32, 40),
    covariance=G,
    profile_fwhm_arcsec=0.035,
    generator=CONFIG,
    encoder=FramedEncoderConfig(channels=8, templates=8, features=16, cell_channels=8),
)


def test_networks_fit_together(key, make_observation):
    """The encoder's outputs are those of the guide, and no galaxy depends on the others of its batch."""
    observation = make_observation("white", n=3, shape=(32, 40))
    encoder = encoder_of(RECIPE)
    params = encoder.init(key, observation)
    found = encoder.apply(params, observation)
    q = posterior_from(found, RECIPE.covariance)
    assert q.event_shape == (RECIPE.generator.latents,) and np.isfinite(found).all()
    np.testing.assert_allclose(encoder.apply(params, observation[1:2])[0], found[1], rtol=1e-4, atol=1e-4)
    generator = generator_of(RECIPE)
    assert generator.blur_pix == pytest.approx(0.035 / 0.03 / FWHM_PER_SIGMA)
    weights = generator.init(key, q.mean)
    assert generator.apply(weights, q.mean).shape == (3, 32, 40)


def test_light_around_a_stamp_is_scattered_into_it(key, make_observation):
    """The likelihood's images are those of a large stamp, cropped, for galaxies that reach beyond their stamp."""
    psf = make_observation("white", n=3, shape=(32, 40)).psf
    recipe = msgspec.structs.replace(RECIPE, generator=msgspec.structs.replace(CONFIG, margin=14))
    params = {"generator$params": generator_of(RECIPE).init(key, jnp.zeros((1, CONFIG.latents)))["params"]}
    z = latents(key, 3, radius=20.0)
    found = image_of(recipe, params, z, psf)
    wide = msgspec.structs.replace(RECIPE, shape=(64, 72))
    expected = renderer_of(wide)(generator_of(wide).apply({"params": params["generator$params"]}, z), psf)
    expected = expected[:, 16:48, 16:56]
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.max()))
    alone = renderer_of(RECIPE)(generator_of(RECIPE).apply({"params": params["generator$params"]}, z), psf)
    assert np.abs(alone - expected).max() > 0.02 * expected.max(), "else there is nothing to see"


def test_masked_pixels_are_not_seen(key, make_observation, rng):
    observation = make_observation("white", n=2, shape=(32, 40))
    encoder = encoder_of(RECIPE)
    params = encoder.init(key, observation)
    mask = rng.uniform(size=(2, 32, 40)) < 0.2
    expected = encoder.apply(params, observation.replace(mask=mask))
    image = np.where(mask, np.nan, observation.image).astype(np.float32)
    np.testing.assert_array_equal(
        encoder.apply(params, observation.replace(mask=mask, image=image)), expected
    )


def test_recipes_of_the_kind_are_read_and_checked():
    assert parse_recipe(recipe_to_toml(RECIPE)) == RECIPE
    with pytest.raises(ValueError, match=r"encoder\.kind: expected another encoder"):
        parse_recipe('[encoder]\nkind = "framed"')
    with pytest.raises(ValueError, match=r"global_latents: expected at least 7, got 6"):
        parse_recipe('[generator]\nkind = "framed"\nglobal_latents = 6')
    with pytest.raises(ValueError, match="channels: expected a multiple of 4, got 10"):
        parse_recipe('[generator]\nkind = "framed"\nchannels = 10')
    with pytest.raises(ValueError, match="covariance: expected at most the number of latents, 16, got 17"):
        parse_recipe("covariance = 17")
