"""Arrays of a batch of galaxies on disk: checked, by name, in the precision in which they are written.

The names and types are those of the table in :mod:`hiergal.survey.store`; :mod:`hiergal.survey.writer` writes them.
"""

from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from hiergal.observation.arrays import exact_identifiers
from hiergal.observation.noise import NoiseModel
from hiergal.observation.observation import Observation, check_observation
from hiergal.observation.psf import same_scale
from hiergal.runtime.identities import hash_identifiers
from hiergal.runtime.pytree import Array
from hiergal.survey.schema import StoreHeader, noise_arrays

__all__ = ["Batch", "arrays_of", "identifier_arrays", "text_of", "unit_of"]

LONGEST_TEXT = 64  # bytes of an identifier

Batch = tuple[Observation, Array | None]


def arrays_of(
    observation: Observation, truth: Array | None, header: StoreHeader
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays of a batch as they go to disk, checked, and what kind of batch it is.

    Args:
        observation: A batch of galaxies.
        truth: Their true profiles [flux per pixel], [n, y, x], or None.
        header: What holds for the whole survey.

    Returns:
        Arrays by name, and what has to be the same in all batches of a survey: kind of noise, columns, shapes.

    Raises:
        ValueError: If anything is wrong with the galaxies.
    """
    noise: Any = observation.noise
    image, truth = (
        cast(Any, None if a is None else np.asarray(a, np.float32)) for a in (observation.image, truth)
    )
    if isinstance(noise, NoiseModel):
        noise = jax.tree.map(lambda array: np.asarray(array, np.float32), noise)
    psf = observation.psf.replace(stamp=np.asarray(observation.psf.stamp, np.float32))
    check_observation(observation.replace(image=image, psf=psf, noise=noise))
    if not noise.kind:
        raise ValueError(
            f"noise: expected a noise model with a name for surveys on disk, got {type(noise).__name__} without; give "
            "its class one: `class Mine(NoiseModel, kind=...)`"
        )
    if not same_scale(observation.pixel_scale_arcsec, header.pixel_scale_arcsec):
        raise ValueError(
            f"expected the pixel scale of the header, {header.pixel_scale_arcsec} arcsec, got "
            f"{observation.pixel_scale_arcsec}; make them agree"
        )
    if truth is not None and (truth.shape != image.shape or not np.isfinite(truth).all()):
        raise ValueError(
            f"expected finite true profiles of the image's shape {image.shape}, got {truth.shape}"
        )
    names = sorted(observation.catalog)  # as JAX orders them, so that sliced batches fit others
    odd = [name for name in names if not name.isidentifier()]
    if odd:
        raise ValueError(
            f"expected columns named with letters, digits and underscores, got {odd}; rename them"
        )
    arrays = {"image": image, "psf": psf.stamp}
    arrays |= {
        name: getattr(noise, one.field) for name, one in noise_arrays(noise.kind, image.shape[1:]).items()
    }
    arrays["truth"] = truth
    arrays["mask"] = None if observation.mask is None else np.asarray(observation.mask)
    arrays |= identifier_arrays(observation.identifier)
    arrays |= {
        f"catalog/{name}": np.asarray(column, np.float64) for name, column in observation.catalog.items()
    }
    arrays = {name: block for name, block in arrays.items() if block is not None}
    about_noise = {"noise_kind": noise.kind, "noise_header": noise.header()}
    if not type(noise).__module__.startswith("hiergal."):  # whoever reads the survey has to import it
        about_noise["noise_module"] = type(noise).__module__
    return arrays, {
        **{name: value for name, value in about_noise.items() if value},
        "catalog": names,
        "has_mask": "mask" in arrays,
        "has_truth": "truth" in arrays,
        "shapes": {name: list(block.shape[1:]) for name, block in arrays.items()},
    }


def identifier_arrays(identifier: Shaped[np.ndarray, "n"]) -> dict[str, np.ndarray]:
    """Return identifiers as they go to disk: whole numbers as they are; of text its bytes, and a number made of them.

    Raises:
        ValueError: If a text is empty, has blanks at its ends, or is longer than ``LONGEST_TEXT`` bytes.

    Example:
        >>> {name: block.shape for name, block in identifier_arrays(np.array(["a", "NGC 4321"])).items()}
        {'identifier': (2,), 'identifier_text': (2, 64)}
    """
    identifier = np.asarray(identifier)
    if identifier.dtype.kind != "U":
        return {"identifier": np.asarray(identifier, np.int64)}
    identifier = exact_identifiers(identifier)
    encoded = [text.encode() for text in identifier.tolist()]
    long = [text for text in encoded if len(text) > LONGEST_TEXT]
    if long:
        raise ValueError(
            f"identifier: expected texts of at most {LONGEST_TEXT} bytes, got {len(long[0])} in {long[0].decode()!r}; "
            "shorten them, or use whole numbers"
        )
    letters = np.array(encoded, f"S{LONGEST_TEXT}").view(np.uint8).reshape(-1, LONGEST_TEXT)
    high, low = hash_identifiers(identifier, "identifier").astype(np.int64).T
    return {"identifier": high << 31 ^ low, "identifier_text": letters}


def text_of(letters: UInt8[np.ndarray, "n bytes"]) -> Shaped[np.ndarray, "n"]:
    """Return the text of identifiers that :func:`identifier_arrays` gave.

    Example:
        >>> text_of(identifier_arrays(np.array(["a", "b é"]))["identifier_text"]).tolist()
        ['a', 'b é']
    """
    joined = np.ascontiguousarray(letters).view(f"S{letters.shape[1]}").ravel()
    return np.char.decode(joined, "utf-8")


def unit_of(name: str, header: StoreHeader, kind: str) -> str:
    """Return the unit of an array of a store in words."""
    per_pixel = f"({header.flux_unit}) per pixel"
    match name:
        case "image" | "truth":
            return per_pixel
        case _ if name in (noise := noise_arrays(kind, (1, 1))):
            power = noise[name].parameter.flux_power
            return {0: "1", 1: per_pixel}.get(power, f"({per_pixel})^{power}")
        case "psf" | "mask" | "identifier" | "identifier_text":
            return "1"
        case _:
            return header.unit_of(name.removeprefix("catalog/"))
