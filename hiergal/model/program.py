"""The hierarchical model of observed galaxies: Fig. 2 and Eqs. (1)-(3) of Lanusse et al. (2020).

    z_i ~ p(z)                                 latents: unit normal in training, the latent flow afterwards
    I_i = g(z_i)                               light profile, by a neural generator
    x_i ~ Normal(PSF_i * I_i, Sigma_i)         observed stamp

and for a stamp with k sources at positions p_ik, a plate more:

    x_i ~ Normal(sum_k PSF_i * shift(g(z_ik), p_ik), Sigma_i)

One NumPyro program, used unchanged by SVI, ``Predictive`` and NUTS. What is written for speed next to it
(:mod:`hiergal.posterior.samplers.target`) has its density, up to a constant: ``tests/test_program.py``.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.contrib.module import flax_module

from hiergal.model.likelihood import NoisyImage, choose_noise
from hiergal.model.nets.training_aids import TrainingAids, generate_with_training_aids
from hiergal.model.sources import render_sources
from hiergal.model.weights import warn_of_new_weights
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF, convolve, convolve_by_modulus, same_scale
from hiergal.recipe.config import Blur, NoiseChoice
from hiergal.runtime.pytree import Array

__all__ = ["galaxy_model", "render", "total_variation"]


def galaxy_model(
    observation: Observation,
    training_aids: TrainingAids | None = None,
    features: tuple[jax.Array, ...] | None = None,
    *,
    generator: nn.Module,
    latents: int,
    pixel_scale_arcsec: float,
    prior: dist.Distribution | None = None,
    positions: Float[Array, "n k 2"] | None = None,
    position_error_pix: float = 0.0,
    shape: tuple[int, int] | None = None,
    profile_fwhm_arcsec: float = 0.0,
    plate_size: int | None = None,
    total_variation_weight: float = 0.0,
    misfit_as_noise: bool = False,
    blur: Blur = "exact",
    noise: NoiseChoice = "survey",
    noise_sigma: float = 0.0,
    margin: int = 0,
) -> None:
    """State how a batch of stamps comes about (Fig. 2).

    Args:
        observation: A batch of galaxies, or of scenes; with ``image=None`` the stamps are simulated.
        training_aids: Training aids of this step, in training alone.
        features: What the guide hands over in training with aids.
        generator: Network from latents [n, d] to light profiles [n, y, x].
        latents: Number of latents d.
        pixel_scale_arcsec: Pixel scale of the generator's profiles [arcsec].
        prior: Prior of the latents: batch shape () or [n], [n, k] for scenes; event shape [d]. Default unit normal.
        positions: Centres (x, y) of the k sources of each stamp, from its centre [pixels]; None for one galaxy,
            centred.
        position_error_pix: Standard deviation of the positions along each axis; 0 if they are known [pixels].
        shape: (ny, nx) of stamps with sources at positions; default that of the image.
        profile_fwhm_arcsec: What profiles are blurred with: see :class:`~hiergal.observation.psf.PSF` [arcsec].
        plate_size: Number of galaxies that the batch stands for, by which all its terms are scaled; default
            the batch itself.
        total_variation_weight: Weight of the penalty on the total variation of the profile (Sec. 4.2.1).
        misfit_as_noise: Whether misfit counts as noise: see :class:`~hiergal.model.likelihood.NoisyImage`.
        blur: How profiles are convolved: see :func:`render`.
        noise: Which noise the likelihood takes: see :func:`~hiergal.model.likelihood.choose_noise`.
        noise_sigma: Standard deviation of ``"constant"`` noise [flux per pixel].
        margin: Pixels around the stamp that the generator's profiles have, too: their light is scattered into it.

    Sites are ``z`` [n, d], ``profile`` [n, y, x] and ``image``; with positions ``z`` [n, k, d], ``profile``
    [n, k, y, x], ``image``, and where positions are uncertain ``offset`` [n, k, 2] from them [pixels].

    The weights of the generator come from the handlers around it. With those of a trained model, for NUTS and
    ``Predictive``, it is in :meth:`hiergal.GalaxyModel.programs`; without any, it warns there that they are random.

    Raises:
        ValueError: If the prior has another shape, or sources at positions are to be blurred by the modulus.

    Example:
        >>> import hiergal
        >>> about = {"psf": jnp.ones((3, 3)) / 9, "rms": 0.1, "pixel_scale_arcsec": 0.03}
        >>> stamps = hiergal.Observation.from_arrays(jnp.zeros((5, 4, 6)), **about)
        >>> network = nn.Sequential([nn.Dense(24), lambda x: x.reshape(-1, 4, 6)])
        >>> own = partial(galaxy_model, generator=network, latents=2, pixel_scale_arcsec=0.03)
        >>> sites = numpyro.handlers.trace(numpyro.handlers.seed(own, 0)).get_trace(stamps)
        >>> sites["z"]["value"].shape, sites["profile"]["value"].shape
        ((5, 2), (5, 4, 6))
    """
    warn_of_new_weights("generator$params")
    g = flax_module("generator", generator, jnp.zeros((1, latents)))
    n, alone = len(observation), positions is None
    batch = (n,) if positions is None else positions.shape[:2]
    prior = _checked(prior, latents, batch)
    together = (lambda x: x) if alone else partial(jnp.sum, axis=1)  # the sources of a stamp
    with numpyro.plate("galaxies", plate_size or n, subsample_size=n):
        # The sources of a stamp are one event of k rows: one likelihood ties them together.
        z = numpyro.sample("z", prior if alone else prior.expand(batch).to_event(1))
        if position_error_pix and not alone:
            scatter = dist.Normal(0, position_error_pix).expand((*batch, 2)).to_event(2)
            positions = positions + numpyro.sample("offset", scatter)
        light = (
            _each(g, z)
            if training_aids is None or features is None
            else generate_with_training_aids(g, z, training_aids, features)
        )
        profile = numpyro.deterministic("profile", without_margin(light, margin))
        grid = (positions, shape if observation.image is None else observation.image.shape[-2:])
        images = render(light, observation.psf, pixel_scale_arcsec, profile_fwhm_arcsec, blur, *grid)
        images = without_margin(images, margin) if alone else images
        if total_variation_weight:
            penalty = total_variation_weight * together(total_variation(profile))
            numpyro.factor("smoothness", -penalty)
        known = choose_noise(observation.noise, noise, noise_sigma)
        likelihood = NoisyImage(together(images), known, observation.mask, misfit_as_noise=misfit_as_noise)
        numpyro.sample("image", likelihood, obs=observation.image)


def without_margin(image: Float[jax.Array, "*n y x"], margin: int) -> Float[jax.Array, "*n v u"]:
    """Return what is inside of a margin.

    Example:
        >>> without_margin(jnp.ones((2, 8, 9)), 2).shape
        (2, 4, 5)
    """
    return (
        image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin] if margin else image
    )


def render(
    profile: Float[Array, "*n y x"],
    psf: PSF,
    pixel_scale_arcsec: float,
    profile_fwhm_arcsec: float = 0.0,
    blur: Blur = "exact",
    positions: Float[Array, "*n 2"] | None = None,
    shape: tuple[int, int] | None = None,
) -> Float[jax.Array, "*n v u"]:
    """Turn light profiles into noise-free images: the convolution of Eq. (1), on the observation's grid.

    Args:
        profile: Unconvolved profiles [flux per pixel].
        psf: Effective PSFs.
        pixel_scale_arcsec: Pixel scale of the profiles [arcsec].
        profile_fwhm_arcsec: What the profiles are blurred with already: see :class:`~hiergal.observation.psf.PSF`
            [arcsec].
        blur: ``"exact"``, or ``"modulus"`` as the paper's code had it.
        positions: Centres (x, y) of k sources, profiles [..., n, k, y, x], from the centre of their stamp [pixels];
            each stamp has one PSF. None for one galaxy, centred, on a stamp of its profile's shape.
        shape: (ny, nx) of stamps with sources at positions; default that of the profiles.

    Returns:
        Noise-free images [flux per pixel]; with positions, of each source alone, [..., n, k, ny, nx].

    Raises:
        ValueError: If the PSF is sampled on another pixel scale than the profile, or blurs positions by its modulus.

    Example:
        >>> point = jnp.zeros((1, 5, 7)).at[0, 2, 3].set(1.0)
        >>> psf = PSF(jnp.ones((1, 3, 3)) / 9, pixel_scale_arcsec=0.03)
        >>> round(float(render(point, psf, 0.03)[0, 1, 2]), 4)
        0.1111
    """
    if not same_scale(psf.pixel_scale_arcsec, pixel_scale_arcsec):
        raise ValueError(
            f"expected a PSF on the pixel scale of the profiles, {pixel_scale_arcsec} arcsec, got "
            f"{psf.pixel_scale_arcsec} arcsec; resample the PSF, or use a model trained at that scale"
        )
    psf = psf.replace(profile_fwhm_arcsec=profile_fwhm_arcsec)
    if positions is not None:
        if blur != "exact":
            raise ValueError(
                f"blur: expected 'exact' for sources at positions, got {blur!r}, which moves nothing"
            )
        return render_sources(profile, positions, psf, shape or profile.shape[-2:])
    return convolve(profile, psf) if blur == "exact" else convolve_by_modulus(profile, psf)


def total_variation(profile: Float[jax.Array, "*n y x"]) -> Float[jax.Array, "*n"]:
    """Return the anisotropic total variation, the l1 norm of the differences between neighbours (footnote 9).

    Example:
        >>> float(total_variation(jnp.eye(2)))
        4.0
    """
    vertical = jnp.abs(jnp.diff(profile, axis=-2)).sum(axis=(-2, -1))
    return vertical + jnp.abs(jnp.diff(profile, axis=-1)).sum(axis=(-2, -1))


def _checked(prior: dist.Distribution | None, latents: int, batch: tuple[int, ...]) -> dist.Distribution:
    """Return the prior of the latents, unit normal by default."""
    if prior is None:
        return dist.Normal(0, 1).expand([latents]).to_event(1)
    if prior.event_shape != (latents,) or prior.batch_shape not in ((), batch):
        raise ValueError(
            f"prior: expected batch shape () or {batch}, and event shape {(latents,)}, got {prior.batch_shape} and "
            f"{prior.event_shape}"
        )
    return prior


def _each(g: Callable, z: Float[Array, "*n d"]) -> Float[jax.Array, "*n y x"]:
    """Profiles of all latents."""
    profile = g(z.reshape(-1, z.shape[-1]))
    return profile.reshape(*z.shape[:-1], *profile.shape[1:])


Program = Callable[..., None]
