"""Recipes: what is accepted, and what each mistake is told."""

import tomllib

import pytest
from toys import tiny_recipe

from hiergal.recipe.recipe import Recipe, load_recipe, recipe_from, recipe_to_toml

BAD = [
    ({"nmae": "x"}, "recipe: Object contains unknown field `nmae`; known there: name, shape, "),
    ({"training": {"step": 10}}, "unknown field `step` - at `$.training`; known there: steps, batch, "),
    (
        {"generator": {"latent": 10}},
        "unknown field `latent` - at `$.generator`; known there: latents, channels",
    ),
    ({"flow": {"layer": 2}}, "unknown field `layer` - at `$.flow`; known there: conditions, layers"),
    ({"training": {"steps": "many"}}, "recipe: Expected `int`, got `str` - at `$.training.steps`"),
    ({"training": {"steps": 0}}, "recipe: Expected `int` >= 1 - at `$.training.steps`"),
    ({"training": {"warmup": 1.5}}, "recipe: Expected `float` <= 1.0 - at `$.training.warmup`"),
    ({"objective": {"free_bits": -1.0}}, "recipe: Expected `float` >= 0.0 - at `$.objective.free_bits`"),
    ({"objective": {"reduction": "sum"}}, "recipe: Invalid enum value 'sum' - at `$.objective.reduction`"),
    ({"covariance": "block"}, "recipe: Invalid enum value 'block' - at `$.covariance`"),
    ({"pixel_scale_arcsec": 0.0}, "recipe: Expected `float` > 0.0 - at `$.pixel_scale_arcsec`"),
    ({"shape": [64]}, "recipe: Expected `array` of length 2, got 1 - at `$.shape`"),
    ({"shape": [60, 64]}, "recipe: shape: expected multiples of 8 pixels, got (60, 64)"),
    ({"generator": {"latents": 6}}, "recipe: generator.latents: expected at least 7, got 6"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[str(content) for content, _ in BAD])
def test_mistakes_are_named(content, message):
    with pytest.raises(ValueError) as caught:
        recipe_from(content)
    assert message in str(caught.value)


@pytest.mark.parametrize("recipe", [Recipe(), tiny_recipe((16, 40))], ids=["default", "tiny"])
def test_toml_holds_everything(recipe, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_to_toml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    content = tomllib.loads(path.read_text())
    assert set(content["training"]) == set(type(recipe.training).__struct_fields__), (
        "every value should be named"
    )


def test_what_is_not_named_keeps_its_default(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("shape = [16, 40]\n[training]\nsteps = 7\n")
    recipe = load_recipe(path)
    assert recipe.shape == (16, 40) and recipe.training.steps == 7
    assert recipe.training.batch == Recipe().training.batch and recipe.flow == Recipe().flow


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(OSError):
        load_recipe(tmp_path / "nothing.toml")
    path = tmp_path / "recipe.toml"
    path.write_text("shape = [16\n")
    with pytest.raises(ValueError, match="recipe.toml: expected a TOML file"):
        load_recipe(path)
    path.write_text("[training]\nstep = 3\n")
    with pytest.raises(ValueError, match=r"recipe.toml: Object contains unknown field `step`"):
        load_recipe(path)


def test_recipes_do_not_change():
    with pytest.raises(AttributeError):
        Recipe().training.steps = 3
    assert hash(Recipe()) == hash(Recipe())
