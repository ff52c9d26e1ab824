"""The split of a survey into training, validation and test galaxies, by a seed."""

from hiergal.recipe.recipe import Recipe
from hiergal.survey.store import Split, SurveyStore

__all__ = [
    "split_of",
]


def split_of(store: SurveyStore, recipe: Recipe) -> Split:
    """Return the training, validation and test rows that a recipe makes of a store."""
    return store.split(validation=recipe.training.validation_fraction, test=recipe.training.test_fraction)
