"""How well generators reproduce unseen galaxies: the bound, and what power is left in the residuals.

The same galaxies for every model: the test galaxies of a survey, which all of them were trained on. Residuals are taken
from the guide's mean, and from the mode of the posterior under the unit-normal prior, of the brightest quarter; their
power is that of the whitened residuals, so that noise alone gives one.

    python benchmarks/generators.py mock40.zarr runs/*/model
"""

import time
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer

import hiergal
from hiergal.model.guide import posterior_from
from hiergal.model.trained import GalaxyModel
from hiergal.observation.observation import Observation
from hiergal.runtime.batching import padded_batches
from hiergal.runtime.devices import galaxy_mesh
from hiergal.runtime.matrix_free import minimize
from hiergal.survey.split import split_of
from hiergal.training.evaluation import evaluator

BANDS = ((0.3, 1.5), (1.5, 2.5), (2.5, 4.0), (4.0, 6.0))  # cycles per arcsec
GALAXIES_PER_CALL = 16


@partial(jax.jit, static_argnames=("steps", "products"))
def residuals(model: GalaxyModel, observation: Observation, steps: int, products: int):
    """Return whitened residuals of the guide's mean and of the mode, [n, y, x], and the last step."""

    def residual(z):
        image = model.image(z, observation.psf)
        return observation.noise.whiten(image - observation.image, observation.mask)

    guide = posterior_from(model.encode(observation), model.recipe.covariance).mean
    found = minimize(lambda z: residual(z).reshape(len(z), -1), guide, steps=steps, products=products)
    return residual(guide), residual(found.point), found.step


def power_by_band(whitened: np.ndarray, pixel_scale_arcsec: float) -> np.ndarray:
    """Return the mean power in each band, [n, bands]; one for white noise of unit variance."""
    ny, nx = whitened.shape[-2:]
    fy, fx = (np.fft.fftfreq(n, pixel_scale_arcsec) for n in (ny, nx))
    frequency = np.hypot(fy[:, None], fx)
    power = np.abs(np.fft.fft2(whitened)) ** 2 / (ny * nx)
    return np.stack(
        [power[:, (frequency >= low) & (frequency < high)].mean(axis=1) for low, high in BANDS], axis=1
    )


def main(
    survey: Annotated[Path, typer.Argument(help="the survey that the models were trained on")],
    models: Annotated[list[str], typer.Argument(help="bundles, or hub: names")],
    galaxies: Annotated[
        int, typer.Option(help="of the brightest quarter of the test galaxies", min=16)
    ] = 128,
    steps: Annotated[int, typer.Option(help="Gauss-Newton steps to the mode", min=1)] = 12,
    products: Annotated[int, typer.Option(help="products with J^T J in each", min=1)] = 40,
) -> None:
    """Print two rows for each model."""
    store = hiergal.open_survey(survey)
    bands = ", ".join(f"{low:g}-{high:g}" for low, high in BANDS)
    typer.echo(
        f"| model | parameters: generator | encoder | latents | ELBO [nats] | KL [nats] | at | chi-square | {bands} |"
    )
    typer.echo("|---|---|---|---|---|---|---|---|---|")
    for name in models:
        model = hiergal.load_model(name)
        test = split_of(store, model.recipe).test
        bound = evaluator(model.recipe, jax.random.key(0), galaxy_mesh())(model.params, store.subset(test))
        magnitude = np.asarray(store.catalog["mag_auto"])[test]
        bright = test[np.argsort(magnitude, kind="stable")[: len(test) // 4]]
        rows = bright[np.linspace(0, len(bright) - 1, min(galaxies, len(bright))).round().astype(int)]
        parts, began = [], time.perf_counter()
        for batch in padded_batches(len(rows), GALAXIES_PER_CALL):
            observation = jax.tree.map(jnp.asarray, store.read(rows[batch.rows]).bare())
            found = residuals(model, observation, steps, products)
            parts.append([np.asarray(part)[: batch.kept] for part in found])
        guide, mode, step = (np.concatenate(part) for part in zip(*parts, strict=True))
        seconds = (time.perf_counter() - began) / len(rows)
        sizes = [sum(leaf.size for leaf in jax.tree.leaves(part)) for part in model.params.values()]
        for at, whitened in (("guide's mean", guide), ("mode", mode)):
            power = power_by_band(whitened, model.recipe.pixel_scale_arcsec)
            errors = power.std(0) / len(power) ** 0.5
            words = ", ".join(f"{m:.2f} ± {e:.2f}" for m, e in zip(power.mean(0), errors, strict=True))
            typer.echo(
                f"| {name} | {' | '.join(f'{size:,}' for size in sizes[::-1])} | {model.recipe.generator.latents} | "
                f"{bound.elbo:.1f} | {bound.kl:.1f} | {at} | {np.median((whitened**2).mean((1, 2))):.3f} | {words} |"
            )
        last = f"the last step was {np.median(step):.2f} of a standard deviation of the prior"
        typer.echo(f"{name}: {len(rows)} galaxies, {seconds:.2f} s for each mode; {last}", err=True)


if __name__ == "__main__":
    typer.run(main)
