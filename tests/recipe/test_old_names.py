"""Recipes of earlier versions: their keys and kinds are understood, and each warning names the new one."""

import warnings

import pytest

from hiergal.recipe.old_names import KEYS, KINDS
from hiergal.recipe.recipe import Recipe, parse_recipe, recipe_from, recipe_to_toml

OTHERS = {  # values that are no defaults
    "misfit_as_noise": False,
    "kl_weight": 2.0,
    "gradient_accumulation": 2,
    "ema_decay": 0.5,
    "flux_sampling_power": 0.5,
    "fit_to": "means",
    "log_scale_clamp": "hard",
}
TABLES = [(table, old, new) for table, names in KEYS.items() if table for old, new in names.items()]


@pytest.mark.parametrize(("table", "old", "new"), TABLES)
def test_an_old_key_means_the_new_one(table, old, new):
    expected = recipe_from({table: {new: OTHERS[new]}})
    assert expected != Recipe()
    with pytest.warns(FutureWarning, match=f"{table}.{old} is now {table}.{new}"):
        assert recipe_from({table: {old: OTHERS[new]}}) == expected


def test_an_old_table_means_the_new_one():
    networks = {"generator": {"kind": "lanusse2020"}, "encoder": {"kind": "lanusse2020"}, "shape": [128, 128]}
    expected = recipe_from({"training_aids": {"border_weight": 0.5}} | networks)
    with pytest.warns(FutureWarning, match="aids is now training_aids"):
        assert recipe_from({"aids": {"border_weight": 0.5}} | networks) == expected


@pytest.mark.parametrize(("old", "new"), KINDS.items())
def test_an_old_kind_means_the_new_one(old, new):
    here, there = (
        {"shape": [128, 128], **{n: {"kind": k} for n in ("generator", "encoder")}} for k in (old, new)
    )
    with pytest.warns(FutureWarning, match=f'encoder.kind = "{new}".*generator.kind = "{new}"'):
        assert recipe_from(here) == recipe_from(there)


def test_files_of_hiergal_give_no_warning():
    text = '[training]\naverage = 0.9\n[generator]\nkind = "patches"\n'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recipe = parse_recipe(text, warn=False)
        assert recipe.training.ema_decay == 0.9
        assert parse_recipe(recipe_to_toml(recipe)) == recipe


def test_old_and_new_at_once_is_refused():
    with pytest.raises(ValueError, match="training.ema_decay alone, got training.average too"):
        recipe_from({"training": {"average": 0.9, "ema_decay": 0.9}})
