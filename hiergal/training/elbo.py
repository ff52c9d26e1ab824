"""The objective: the evidence lower bound with free bits (Lanusse et al. 2020, Eqs. 8-10)."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Float
from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer import ELBO

from hiergal.model.leading_normal import LeadingNormal

__all__ = ["FreeBitsELBO", "kl_per_latent"]

REDUCTIONS = ("total", "dimension", "mean")


class FreeBitsELBO(ELBO):
    """Evidence lower bound in which each galaxy's first nats of information are free (Eq. 10).

    Args:
        free_bits: The lambda of Eq. (10) [nats].
        reduction: What lambda bounds from below. ``total``: the divergence of a galaxy, max(lambda, sum_d KL_d), as
            the paper writes it. ``dimension``: each latent's own, sum_d max(lambda, KL_d) (Kingma et al. 2016).
            ``mean``: the mean over latents, max(lambda, mean_d KL_d), as the paper's code has it.

        kl_weight: Factor on the divergence, free bits included: 1, or the beta of a beta-VAE.

    What the guide returns, if anything, is handed to the model as ``features``.

    Raises:
        ValueError: If the reduction is unknown, or lambda is negative.
    """

    def __init__(self, free_bits: float = 0.0, reduction: str = "total", kl_weight: float = 1.0) -> None:
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        if not free_bits >= 0:
            raise ValueError(f"free_bits: expected a number of nats, zero or more, got {free_bits}")
        super().__init__(num_particles=1)
        self.free_bits, self.reduction, self.kl_weight = free_bits, reduction, kl_weight

    def loss(self, rng_key, param_map, model, guide, *args, kl_factor: jax.Array | float = 1.0, **kwargs):
        """Return the negative ELBO for one draw of the latents, scaled to the population.

        ``kl_factor`` multiplies ``kl_weight`` in this step: less than one while the divergence warms up.
        """
        model_key, guide_key = jax.random.split(rng_key)
        q_trace = trace(substitute(seed(guide, guide_key), data=param_map))
        features = q_trace(*args, **kwargs)
        q = q_trace.trace
        if features is not None:
            kwargs = kwargs | {"features": features}
        p = trace(substitute(replay(seed(model, model_key), q), data=param_map)).get_trace(*args, **kwargs)
        elbo = 0.0
        for name, site in p.items():
            if site["type"] != "sample":
                continue
            term = (
                site["fn"].log_prob(site["value"])
                if site["is_observed"]
                else -self.kl_weight * kl_factor * self._cost(q[name]["fn"], site["fn"])
            )
            elbo += jnp.sum(term) * (1.0 if site["scale"] is None else site["scale"])
        return -elbo

    def _cost(self, q: dist.Distribution, p: dist.Distribution) -> jax.Array:
        """KL divergence of each galaxy's posterior from the prior, with the free bits applied, [n]."""
        per_latent = kl_per_latent(q, p)
        match self.reduction:
            case "total":
                return jnp.maximum(self.free_bits, per_latent.sum(-1))
            case "dimension":
                return jnp.maximum(self.free_bits, per_latent).sum(-1)
            case _:
                return jnp.maximum(self.free_bits, per_latent.mean(-1))


def kl_per_latent(q: dist.Distribution, p: dist.Distribution) -> Float[jax.Array, "*n d"]:
    """Return the terms of KL(q || p), whose sum over the latents is the divergence [nats].

    Args:
        q: Independent normals, or a multivariate normal with a triangular factor.
        p: Independent normals.

    Raises:
        TypeError: If a distribution is of another kind.

    Example:
        >>> unit = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
        >>> q = dist.MultivariateNormal(jnp.array([1.0, 0.0]), scale_tril=jnp.eye(2))
        >>> kl_per_latent(q, unit).tolist()
        [0.5, 0.0]
    """
    offset = (q.mean - p.mean) ** 2 / p.variance
    match q:
        case dist.MultivariateNormal():
            spread = jnp.sum(q.scale_tril**2, axis=-1) / p.variance
            log_ratio = jnp.log(jnp.diagonal(q.scale_tril, axis1=-2, axis2=-1)) - 0.5 * jnp.log(p.variance)
        case LeadingNormal():
            spread = q.variance / p.variance
            log_ratio = q.log_scales - 0.5 * jnp.log(p.variance)
        case dist.Independent():
            spread = q.variance / p.variance
            log_ratio = 0.5 * jnp.log(spread)
        case _:
            raise TypeError(f"expected a guide of (multivariate) normals, got {type(q).__name__}")
    return 0.5 * (offset + spread - 1) - log_ratio
