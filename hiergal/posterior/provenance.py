"""Provenance of posteriors, in the metadata of tables and ArviZ files.

=========================  ============  ===============================================================
attribute (ArviZ)          table         holds
=========================  ============  ===============================================================
``model``                  ``MODEL``     name of the model's recipe
``model_sha256``           ``MODELSHA``  digest of the model's arrays (``hiergal.hub.packing.digest_of``)
``survey``, ``band``       the same      what the model was trained on
``flux_unit``              ``FLUXUNIT``  unit of fluxes in words
``magnitude_zero_point``   ``MAGZERO``   magnitude of unit flux [mag]
``hiergal_version``        ``HGVERS``    version of hiergal that inferred
``method``, ``draws``      the same      how, and draws of each galaxy
``conditions``             ``CONDIT``    1 if conditions informed the prior, else 0
``seed``                   ``SEED``      of the draws
=========================  ============  ===============================================================

Names of a table are those of FITS cards, of eight letters, in every format.
"""

from collections.abc import Mapping

from hiergal.hub.packing import digest_of, flatten
from hiergal.model.trained import GalaxyModel
from hiergal.runtime.version import __version__

__all__ = ["cards_of", "provenance_of"]

CARDS = {
    "model": "MODEL",
    "model_sha256": "MODELSHA",
    "survey": "SURVEY",
    "band": "BAND",
    "flux_unit": "FLUXUNIT",
    "magnitude_zero_point": "MAGZERO",
    "hiergal_version": "HGVERS",
    "method": "METHOD",
    "draws": "DRAWS",
    "conditions": "CONDIT",
    "seed": "SEED",
}


def provenance_of(model: GalaxyModel, **choices: str | int | float) -> dict[str, str | int | float]:
    """Return the provenance of a result of a model.

    Args:
        model: The model.
        choices: What else is known: ``method``, ``draws``, ``conditions``, ``seed``.

    Example:
        >>> provenance_of(model, seed=0)["flux_unit"]
        'counts per second'
    """
    origin = model.provenance
    about = {
        "model": model.recipe.name,
        "model_sha256": digest_of(flatten(model)),
        "survey": origin.survey,
        "band": origin.band,
        "flux_unit": origin.flux_unit,
        "magnitude_zero_point": origin.magnitude_zero_point,
        "hiergal_version": __version__,
    }
    return about | {name: int(one) if isinstance(one, bool) else one for name, one in choices.items()}


def cards_of(about: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    """Return the same as metadata of a table.

    Args:
        about: What :func:`provenance_of` returned, or a part of it.

    Example:
        >>> cards_of({"magnitude_zero_point": 25.94, "seed": 7})
        {'MAGZERO': 25.94, 'SEED': 7}
    """
    return {card: about[name] for name, card in CARDS.items() if name in about}
