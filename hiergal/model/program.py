"""The hierarchical model of observed galaxies: Fig. 2 and Eqs. (1)-(3) of Lanusse et al. (2020).

    z_i ~ Normal(0, 1)                         latents
    I_i = g(z_i)                               light profile, by a neural generator
    x_i ~ Normal(PSF_i * I_i, Sigma_i)         observed stamp

One NumPyro program, used unchanged by SVI, ``Predictive`` and NUTS. Training may hand it the aids of a deep generator.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.contrib.module import flax_module

from hiergal.model.likelihood import NoisyImage, chosen_noise
from hiergal.model.nets.training_aids import Aids, profile_with_aids
from hiergal.model.weights import warn_of_new_weights
from hiergal.observation.observation import Observation
from hiergal.observation.psf import PSF, convolve, convolve_by_modulus, same_scale
from hiergal.recipe.config import Blur, NoiseChoice
from hiergal.runtime.pytree import Array

__all__ = ["galaxy_model", "render", "total_variation"]


def galaxy_model(
    observation: Observation,
    aids: Aids | None = None,
    features: tuple[jax.Array, ...] | None = None,
    *,
    generator: nn.Module,
    latents: int,
    pixel_scale_arcsec: float,
    profile_fwhm_arcsec: float = 0.0,
    population: int | None = None,
    total_variation_weight: float = 0.0,
    misfit_as_noise: bool = False,
    blur: Blur = "exact",
    noise: NoiseChoice = "survey",
    noise_sigma: float = 0.0,
) -> None:
    """State how a batch of stamps comes about (Fig. 2).

    Args:
        observation: A batch of galaxies; with ``image=None`` the stamps are simulated.
        aids: Aids of this step, in training alone.
        features: What the guide hands over in training with aids.
        generator: Network from latents [n, d] to light profiles [n, y, x].
        latents: Number of latents d.
        pixel_scale_arcsec: Pixel scale of the generator's profiles [arcsec].
        profile_fwhm_arcsec: What these are blurred with: see :class:`~hiergal.observation.psf.PSF` [arcsec].
        population: Number of galaxies that the batch stands for, by which all its terms are scaled; default
            the batch itself.
        total_variation_weight: Weight of the penalty on the total variation of the profile (Sec. 4.2.1).
        misfit_as_noise: Whether misfit counts as noise: see :class:`~hiergal.model.likelihood.NoisyImage`.
        blur: How profiles are convolved: see :func:`render`.
        noise: Which noise the likelihood takes: see :func:`~hiergal.model.likelihood.chosen_noise`.
        noise_sigma: Standard deviation of ``"constant"`` noise [flux per pixel].

    The weights of the generator come from the handlers around it. With those of a trained model, for NUTS and
    ``Predictive``, it is :meth:`hiergal.GalaxyModel.program`; without any, it warns there that they are random.

    Example:
        >>> from numpyro.infer import Predictive  # doctest: +SKIP
        >>> Predictive(model.program(), num_samples=10)(key, observation.replace(image=None))  # doctest: +SKIP
    """
    warn_of_new_weights("generator$params")
    g = flax_module("generator", generator, jnp.zeros((1, latents)))
    n = len(observation)
    with numpyro.plate("galaxies", population or n, subsample_size=n):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([latents]).to_event(1))
        unaided = aids is None or features is None
        profile = numpyro.deterministic(
            "profile", g(z) if unaided else profile_with_aids(g, z, aids, features)
        )
        mean = render(profile, observation.psf, pixel_scale_arcsec, profile_fwhm_arcsec, blur)
        if total_variation_weight:
            numpyro.factor("smoothness", -total_variation_weight * total_variation(profile))
        likelihood = NoisyImage(
            mean,
            chosen_noise(observation.noise, noise, noise_sigma),
            observation.mask,
            misfit_as_noise=misfit_as_noise,
        )
        numpyro.sample("image", likelihood, obs=observation.image)


def render(
    profile: Float[Array, "*n y x"],
    psf: PSF,
    pixel_scale_arcsec: float,
    profile_fwhm_arcsec: float = 0.0,
    blur: Blur = "exact",
) -> Float[jax.Array, "*n y x"]:
    """Turn light profiles into noise-free stamps: the convolution of Eq. (1), on the observation's grid.

    Args:
        profile: Unconvolved profiles [flux per pixel].
        psf: Effective PSFs.
        pixel_scale_arcsec: Pixel scale of the profiles [arcsec].
        profile_fwhm_arcsec: What the profiles are blurred with already: see :class:`~hiergal.observation.psf.PSF`
            [arcsec].
        blur: ``"exact"``, or ``"modulus"`` as the paper's code had it.

    Raises:
        ValueError: If the PSF is sampled on another pixel scale than the profile.
    """
    if not same_scale(psf.pixel_scale_arcsec, pixel_scale_arcsec):
        raise ValueError(
            f"expected a PSF on the pixel scale of the profiles, {pixel_scale_arcsec} arcsec, got "
            f"{psf.pixel_scale_arcsec} arcsec; resample the PSF, or use a model trained at that scale"
        )
    psf = psf.replace(profile_fwhm_arcsec=profile_fwhm_arcsec)
    return convolve(profile, psf) if blur == "exact" else convolve_by_modulus(profile, psf)


def total_variation(profile: Float[jax.Array, "*n y x"]) -> Float[jax.Array, "*n"]:
    """Return the anisotropic total variation, the l1 norm of the differences between neighbours (footnote 9).

    Example:
        >>> float(total_variation(jnp.eye(2)))
        4.0
    """
    vertical = jnp.abs(jnp.diff(profile, axis=-2)).sum(axis=(-2, -1))
    return vertical + jnp.abs(jnp.diff(profile, axis=-1)).sum(axis=(-2, -1))


Program = Callable[[Observation], None]
