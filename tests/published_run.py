"""A complete run, and all that is measured of it before it is published."""

import functools

import jax
from toys import drawing_model

from hiergal.model.architecture import posterior_flow_config
from hiergal.model.flow.density import ConditionalFlow
from hiergal.training.train_model import _rounded

ABOUT = """
name = "toy"
version = "1.0"
licence = "MIT"
description = "Galaxies of a toy survey."
intended_use = "Tests."
limits = "Not for science."
citation = "Nobody et al."
"""
VERDICT = {"statistic": 0.51, "error": 0.01, "expected": 0.5, "p_value": 0.3, "passed": True}
LEVELS = {"0.50": 0.51, "0.68": 0.67, "0.90": 0.9, "0.95": 0.96}
VALIDATION = {
    "galaxies": 100,
    "passed": False,
    "verdicts": {
        "drawn": {"mean sigma": VERDICT, "classifier": VERDICT | {"statistic": 0.7, "passed": False}},
        "parametric": {"mean sigma": VERDICT},
    },
}
CALIBRATION = {
    "method": "flow",
    "galaxies": 200,
    "draws": 99,
    "seed": 0,
    "passed": False,
    "used": {"flow": 200},
    "coverage": {"flux": LEVELS, "z0": LEVELS, "z1": LEVELS | {"0.90": 0.8}},
    "joint_coverage": {"joint: flux": LEVELS},
    "verdicts": [{"passed": True, "words": "fine"}, {"passed": False, "words": "z1: too narrow"}],
}


@functools.cache
def complete_model():
    model = drawing_model()
    config = posterior_flow_config(model.recipe)
    guide = ConditionalFlow.untrained(jax.random.key(0), config, model.recipe.generator.latents)
    return model.replace(posterior_flow=guide, params=jax.tree.map(_rounded, model.params))
