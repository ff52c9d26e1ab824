"""Numbers of light profiles against analytic ones, off centre, on stamps that are not square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.measure.profile import summarize_profile

SCALE = 0.05
SHAPE = (71, 90)


def elliptical(
    kind: str, *, size: float, g: tuple[float, float], center: tuple[float, float], flux: float = 3.0
):
    """A sheared Gaussian (size: sigma) or exponential disc (size: scale length), averaged over 5x5 subpixels.

    Args:
        kind: ``gaussian`` or ``exponential``.
        size: In pixels, before an area-preserving shear.
        g: Reduced shear.
        center: (x, y) from the centre of the stamp [pixels].
        flux: Total flux.
    """
    ny, nx = SHAPE
    fine = (np.arange(5) - 2) / 5
    y = (np.arange(ny)[:, None] + fine).ravel() - (ny - 1) / 2 - center[1]
    x = (np.arange(nx)[:, None] + fine).ravel() - (nx - 1) / 2 - center[0]
    y, x = np.meshgrid(y, x, indexing="ij")
    norm = 1 / np.sqrt(1 - g[0] ** 2 - g[1] ** 2)
    u, v = norm * ((1 - g[0]) * x - g[1] * y), norm * ((1 + g[0]) * y - g[1] * x)
    radius = np.hypot(u, v) / size
    if kind == "gaussian":
        light = np.exp(-0.5 * radius**2) / (2 * np.pi * size**2)
    else:
        light = np.exp(-radius) / (2 * np.pi * size**2)
    return flux * light.reshape(ny, 5, nx, 5).mean(axis=(1, 3))


@pytest.mark.parametrize("g", [(0.0, 0.0), (0.3, 0.0), (-0.2, 0.35), (0.1, -0.4)])
@pytest.mark.parametrize("center", [(0.0, 0.0), (6.3, -4.7)])
def test_gaussian(x64, g, center):
    found = summarize_profile(elliptical("gaussian", size=4.0, g=g, center=center), SCALE)
    np.testing.assert_allclose(found.flux, 3.0, rtol=1e-5)
    np.testing.assert_allclose([found.x_pix, found.y_pix], center, atol=1e-3)
    # Pixels add 1/12 to each second moment, which makes the shape a little rounder.
    np.testing.assert_allclose([found.g1, found.g2], g, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize(("kind", "hlr"), [("gaussian", np.sqrt(2 * np.log(2))), ("exponential", 1.67834699)])
@pytest.mark.parametrize("size", [3.0, 5.0])
def test_half_light_radius_of_round_profiles(x64, kind, hlr, size):
    """Within 1 % of the analytic value; a disc of 5 pixels has lost 0.4 % of its light over the edges."""
    found = summarize_profile(elliptical(kind, size=size, g=(0, 0), center=(1.4, 2.2)), SCALE)
    np.testing.assert_allclose(found.hlr_arcsec, hlr * size * SCALE, rtol=0.01)


def test_ellipticity_is_the_reduced_shear_of_galsim(x64):
    """Eq. (17): |g| = (1 - q) / (1 + q), with GalSim's signs: g1 > 0 along x, g2 > 0 along y = x."""
    galsim = pytest.importorskip("galsim")
    for g1, g2 in [(0.3, 0.0), (0.0, 0.3), (-0.25, 0.1)]:
        galaxy = galsim.Gaussian(sigma=4 * SCALE, flux=7.0).shear(g1=g1, g2=g2).shift(0.15, -0.1)
        image = galaxy.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=SCALE, method="no_pixel").array
        found = summarize_profile(image.astype(float), SCALE)
        np.testing.assert_allclose([found.g1, found.g2], [g1, g2], atol=1e-4)
        np.testing.assert_allclose([found.x_pix, found.y_pix], [3.0, -2.0], atol=1e-3)
        np.testing.assert_allclose(found.flux, 7.0, rtol=1e-4)


def test_laws(x64):
    """Flips and transposes act on the numbers as they must; the unit of flux and the pixel scale only rescale."""
    profile = elliptical("exponential", size=3.0, g=(0.2, -0.3), center=(4.2, -3.1))
    found = summarize_profile(profile, SCALE)
    mirrored, turned = summarize_profile(profile[:, ::-1], SCALE), summarize_profile(profile.T, SCALE)
    scaled = summarize_profile(50 * profile, 2 * SCALE)
    pairs = [
        (mirrored, (1, 1, -1, 1, 1, -1), ("flux", "hlr_arcsec", "x_pix", "y_pix", "g1", "g2")),
        (turned, (1, 1, 1, 1, -1, 1), ("flux", "hlr_arcsec", "y_pix", "x_pix", "g1", "g2")),
        (scaled, (50, 2, 1, 1, 1, 1), ("flux", "hlr_arcsec", "x_pix", "y_pix", "g1", "g2")),
    ]
    for other, factors, names in pairs:
        for field, factor, name in zip(
            ("flux", "hlr_arcsec", "x_pix", "y_pix", "g1", "g2"), factors, names, strict=True
        ):
            np.testing.assert_allclose(
                getattr(other, field), factor * getattr(found, name), rtol=1e-6, atol=1e-9
            )


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_batch(rng, batch):
    profile = rng.uniform(size=(*batch, 9, 14)).astype(np.float32)
    found = jax.jit(summarize_profile, static_argnums=1)(profile, SCALE)
    flat = profile.reshape(-1, 9, 14)
    for leaf, index in ((found.hlr_arcsec, "hlr_arcsec"), (found.g2, "g2")):
        assert leaf.shape == batch
        one = getattr(summarize_profile(flat[-1], SCALE), index)
        np.testing.assert_allclose(jnp.ravel(leaf)[-1], one, rtol=1e-4)


def test_empty_and_tiny_profiles_are_finite():
    profile = np.zeros((2, 8, 10), np.float32)
    profile[1, 3, 4] = 1.0
    found = summarize_profile(profile, SCALE)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    assert found.hlr_arcsec[1] < SCALE


def test_gradients_are_right(x64):
    """The gradient of every moment agrees with a finite difference (the radius is found by bisection: it has none)."""
    profile = elliptical("exponential", size=3.0, g=(0.2, -0.3), center=(4.2, -3.1))
    step = 1e-6 * np.random.default_rng(1).uniform(0.5, 1.5, profile.shape) * profile
    for name in ("flux", "x_pix", "y_pix", "g1", "g2"):

        def value(profile, name=name):
            return getattr(summarize_profile(profile, SCALE), name)

        gradient = jax.grad(value)(profile)
        slope = (value(profile + step) - value(profile - step)) / 2
        assert abs(slope) > 1e-12
        np.testing.assert_allclose(np.sum(gradient * step), slope, rtol=1e-3)
