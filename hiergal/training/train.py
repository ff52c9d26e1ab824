"""Training as one call: what ``hiergal train`` does, from a survey and a recipe to a model on disk."""

from pathlib import Path

from msgspec.structs import replace

from hiergal.hub.bundle import load_model
from hiergal.model.trained import GalaxyModel
from hiergal.recipe.recipe import Recipe, load_recipe
from hiergal.survey.store import SurveyStore, open_survey
from hiergal.training.train_model import train_model

__all__ = ["train"]


def train(
    survey: SurveyStore | str | Path,
    recipe: Recipe | str | Path | None = None,
    *,
    out: str | Path,
    seed: int = 0,
    steps: int | None = None,
    start: GalaxyModel | str | Path | None = None,
    in_memory: bool | None = None,
    half_precision: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> GalaxyModel:
    r"""Fit the generator and the guide to a survey, as the command ``hiergal train`` does.

    The same call goes on with a training that was stopped, and recognises one that is finished. A latent flow, which
    drawing new galaxies needs, is fitted afterwards: ``hiergal fit-prior``.

    Args:
        survey: A survey (:func:`hiergal.open_survey`), or its path.
        recipe: What to train (:class:`hiergal.Recipe`), or a TOML file of it; None for the small one.
        out: Folder of the run: ``model``, checkpoints, history.
        seed: Seed of the training; the same seed gives the same model.
        steps: Other than the recipe's number of steps.
        start: A trained model to go on from, or its name or path: on other galaxies, or with other steps. Its networks
            must be the recipe's.
        in_memory: Whether the galaxies are kept on the devices, or read from disk as they are needed; default by their
            size.
        half_precision: Whether the weights are rounded to half precision, as those of published models are.
        overwrite: Whether another training in this folder is replaced.
        progress: Whether to show a progress bar.

    Returns:
        The trained model, which is also saved as ``out/model``.

    Raises:
        FileExistsError: If something is in the folder that is not of this training.
        BlockingIOError: If another process trains there.
        ValueError: If the stamps or pixels of the survey are not the recipe's, or its PSFs too narrow for it, or the
            networks or fluxes of the model to start from are others.

    Example:
        >>> from hiergal.recipe.recipe import parse_recipe
        >>> from hiergal.survey.mock.survey import write_mock_survey
        >>> survey = write_mock_survey("survey.zarr", 60, seed=1, stamp=32, workers=1, progress=False)
        >>> smallest = "shape = [32, 32]\ngenerator.channels = 4\nencoder.channels = 4\ntraining.batch = 8"
        >>> model = train(survey, parse_recipe(smallest), out="runs/mine", steps=2, progress=False)
        >>> model.recipe.shape
        (32, 32)
    """
    survey = survey if isinstance(survey, SurveyStore) else open_survey(survey)
    if not isinstance(recipe, Recipe):
        recipe = Recipe() if recipe is None else load_recipe(recipe)
    if steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=steps))
    return train_model(
        survey,
        recipe,
        out,
        seed=seed,
        start=load_model(start) if isinstance(start, str | Path) else start,
        in_memory=in_memory,
        half_precision=half_precision,
        overwrite=overwrite,
        progress=progress,
    )[0]
