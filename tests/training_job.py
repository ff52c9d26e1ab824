"""A training, to be run as a program of its own: it may be killed, have many devices, or be one of several processes.

python training_job.py FOLDER STORE {tiny|lanusse2020|parts} DEVICES STEPS EVALUATE_EVERY [join]
"""

import sys
from functools import partial

import jax
import numpy as np
from conftest import awkward_psf
from toys import pyramid_recipe, tiny_recipe, tiny_survey

from hiergal.runtime.devices import join_processes
from hiergal.survey import StoreHeader, SurveyStore, open_survey, write_store
from hiergal.training.svi import fit

SHAPE, GALAXIES, VALIDATION = (16, 24), 64, 16
KEY = 11


def write_survey(path) -> SurveyStore:
    header = StoreHeader(survey="tiny", band="V", pixel_scale_arcsec=0.03, magnitude_zero_point=25.0)
    n = GALAXIES + VALIDATION
    return write_store(path, header, [(tiny_survey(n, SHAPE, awkward_psf(n)), None)])


def train(folder, store: SurveyStore, kind: str, devices: int, steps: int, evaluate_every: int):
    recipe = {
        "tiny": tiny_recipe,
        "lanusse2020": pyramid_recipe,
        "parts": partial(pyramid_recipe, gradient_accumulation=2),  # gradients of half a batch at once
    }[kind](SHAPE, steps=steps, evaluate_every=evaluate_every, patience=1000)
    rows = np.arange(GALAXIES)
    train, validation = store.subset(rows), store.subset(GALAXIES + np.arange(VALIDATION))
    used = None if jax.process_count() > 1 else jax.devices()[:devices]
    return fit(jax.random.key(KEY), recipe, train, validation, folder=folder, devices=used, progress=False)


if __name__ == "__main__":
    folder, store, kind, devices, steps, evaluate_every, *join = sys.argv[1:]
    if join:
        join_processes()
    fitted = train(folder, open_survey(store), kind, int(devices), int(steps), int(evaluate_every))
    if jax.process_index() == 0:
        leaves = jax.tree_util.tree_leaves_with_path(fitted.params)
        np.savez(
            f"{folder}/params.npz",
            **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
        )
