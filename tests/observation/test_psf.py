"""Convolution with a PSF against a direct double sum, and the laws that it obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hiergal.observation.psf import PSF, convolve

SHAPES = [(11, 14), (8, 5), (7, 1), (6, 6)]
PSF_SHAPES = [(5, 9), (9, 5), (1, 1), (3, 27), (25, 31)]


def convolve_directly(profile: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """The definition, pixel by pixel: each pixel's light is spread as the PSF says, and what leaves is lost."""
    (ny, nx), (py, px) = profile.shape, stamp.shape
    image = np.zeros((ny, nx))
    for y in range(ny):
        for x in range(nx):
            for j in range(py):
                for i in range(px):
                    v, u = y + j - py // 2, x + i - px // 2
                    if 0 <= v < ny and 0 <= u < nx:
                        image[v, u] += profile[y, x] * stamp[j, i]
    return image


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid (y, x) from the central pixel and second moments about it [pix, pix^2]."""
    grid = np.stack(np.meshgrid(*(np.arange(s) - s // 2 for s in image.shape), indexing="ij"))
    weight = image / image.sum()
    centroid = (grid * weight).sum(axis=(1, 2))
    offset = grid - centroid[:, None, None]
    return centroid, np.einsum("ayx,byx,yx->ab", offset, offset, weight)


def compact_profile(rng: np.random.Generator, shape=(21, 30), margin=6) -> np.ndarray:
    """A profile so far from the edges that a PSF of 9 pixels carries no light over them."""
    profile = np.zeros(shape)
    profile[margin:-margin, margin + 3 : -margin] = rng.exponential(size=(shape[0] - 12, shape[1] - 15))
    return profile


@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_a_direct_sum(rng, make_psf, shape, psf_shape):
    psf = make_psf(2, psf_shape)
    profile = rng.exponential(size=(2, *shape)).astype(np.float32)
    image = convolve(profile, psf)
    expected = [convolve_directly(p, s) for p, s in zip(profile, psf.stamp, strict=True)]
    np.testing.assert_allclose(image, expected, atol=2e-6 * np.max(expected))


def test_direct_sum_would_notice_a_flipped_or_transposed_psf(rng, make_psf):
    psf = make_psf(1, (7, 7))
    profile = rng.exponential(size=(1, 11, 14)).astype(np.float32)
    expected = convolve_directly(profile[0], psf.stamp[0])
    for wrong in (psf.stamp[:, ::-1, ::-1], psf.stamp[:, ::-1], psf.stamp.swapaxes(1, 2)):
        assert np.abs(convolve(profile, psf.replace(stamp=wrong))[0] - expected).max() > 0.01 * expected.max()


def test_off_centre_point_shifts_towards_its_offset():
    stamp, profile, expected = np.zeros((5, 9)), np.zeros((11, 14)), np.zeros((11, 14))
    stamp[2 + 1, 4 - 3] = 1
    profile[4, 8] = 7
    expected[4 + 1, 8 - 3] = 7
    np.testing.assert_allclose(convolve(profile, PSF(stamp, pixel_scale_arcsec=0.03)), expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(11, 14), (12, 15)])
def test_transfer_is_the_fourier_sum_about_the_central_pixel(make_psf, grid):
    psf = make_psf(1)
    ky, kx = np.fft.fftfreq(grid[0]), np.fft.rfftfreq(grid[1])
    y, x = np.arange(5) - 2, np.arange(9) - 4
    phase_y, phase_x = np.exp(-2j * np.pi * np.outer(ky, y)), np.exp(-2j * np.pi * np.outer(x, kx))
    expected = phase_y @ psf.stamp[0] @ phase_x
    np.testing.assert_allclose(psf.transfer(grid)[0], expected, atol=1e-6)
    assert np.abs(expected.imag).max() > 0.1


def test_nothing_wraps_around_the_edges(rng, make_psf):
    """A wider stamp gives the same image: what is beyond the edge is lost, never folded back."""
    psf = make_psf(1, (9, 13))
    profile = rng.exponential(size=(1, 11, 14)).astype(np.float32)
    wide = convolve(np.pad(profile, [(0, 0), (20, 20), (20, 20)]), psf)[:, 20:31, 20:34]
    np.testing.assert_allclose(convolve(profile, psf), wide, atol=2e-6 * wide.max())


def test_conserves_flux(rng, make_psf):
    profile = compact_profile(rng)
    image = convolve(profile.astype(np.float32)[None], make_psf(1))
    np.testing.assert_allclose(np.sum(image, dtype=float), profile.sum(), rtol=1e-6)


def test_centroids_and_second_moments_add(rng, make_psf):
    psf, profile = make_psf(1), compact_profile(rng)
    image = np.asarray(convolve(profile.astype(np.float32)[None], psf)[0], float)
    (c_image, m_image), (c_psf, m_psf) = moments(image), moments(psf.stamp[0].astype(float))
    c_profile, m_profile = moments(profile)
    assert np.abs(c_psf).min() > 0.2 and abs(m_psf[0, 1]) > 0.1
    np.testing.assert_allclose(c_image, c_profile + c_psf, atol=1e-5)
    np.testing.assert_allclose(m_image, m_profile + m_psf, atol=1e-4)


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
@pytest.mark.parametrize("flip", [False, True])
def test_turns_and_flips_with_its_operands(rng, make_psf, quarter_turns, flip):
    def turn(stack):
        stack = np.rot90(stack, quarter_turns, axes=(-2, -1))
        return stack[..., ::-1] if flip else stack

    psf = make_psf(2)
    profile = rng.exponential(size=(2, 11, 14)).astype(np.float32)
    turned = convolve(turn(profile), psf.replace(stamp=turn(psf.stamp)))
    np.testing.assert_allclose(turned, turn(convolve(profile, psf)), atol=1e-5)


def test_batch_axes_broadcast(rng, make_psf):
    psfs = make_psf(3)
    one = PSF(psfs.stamp[1], pixel_scale_arcsec=0.03)
    profiles = rng.exponential(size=(4, 3, 11, 14)).astype(np.float32)
    images = convolve(profiles, psfs)
    assert images.shape == (4, 3, 11, 14)
    close = dict(atol=1e-5)
    np.testing.assert_allclose(images[2, 1], convolve(profiles[2, 1], one), **close)
    np.testing.assert_allclose(convolve(profiles[:, 1], one), images[:, 1], **close)
    np.testing.assert_allclose(convolve(profiles[2, 1], psfs)[1], images[2, 1], **close)
    np.testing.assert_allclose(jax.vmap(lambda p: convolve(p, psfs))(profiles), images, **close)
    np.testing.assert_allclose(jax.jit(jax.vmap(convolve))(profiles[2], psfs), images[2], **close)


def test_gradients_match_finite_differences(x64, rng, make_psf):
    stamp = make_psf(2).stamp.astype(float)
    profile, weight = rng.exponential(size=(2, 11, 14)), rng.normal(size=(2, 11, 14))

    def loss(profile, stamp):
        return jnp.sum(weight * convolve(profile, PSF(stamp, pixel_scale_arcsec=0.03)) ** 2)

    gradients = jax.grad(loss, argnums=(0, 1))(profile, stamp)
    for i, (value, gradient) in enumerate(zip((profile, stamp), gradients, strict=True)):
        step = 1e-5 * rng.normal(size=value.shape)
        arguments = [profile, stamp]
        up, down = ([*arguments[:i], value + s * step, *arguments[i + 1 :]] for s in (1, -1))
        slope = (loss(*up) - loss(*down)) / 2
        assert np.abs(gradient).max() > 0.1
        np.testing.assert_allclose(np.vdot(gradient, step), slope, rtol=1e-6)
