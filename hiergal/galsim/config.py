"""Galaxies of a trained model in GalSim's configuration files, as galsim_hub had them (Lanusse et al. 2020, App. A).

::

    modules: [hiergal.galsim_config]    # or hiergal, in a process that has loaded GalSim before hiergal
    input:
        generative_model: {file_name: 'hub:mock-acs'}
    gal:
        type: GenerativeModelGalaxy
        mag_auto: {type: Catalog, col: mag_auto}
        flux_radius: 9.0
        zphot: 0.8

Fields of the galaxy are the model's conditions; ``flux`` and ``half_light_radius`` (exact values), and
``magnitude_zero_point``, ``deconvolve``, ``pad_factor``, ``x_interpolant``, ``k_interpolant``, ``noise_pad`` (a
variance, or a file with an image of noise) with ``noise_pad_size`` as for
:meth:`hiergal.GenerativeGalaxyModel.sample`;
``missing: population`` draws conditions that are not named. Fields of the input are ``file_name``; ``outside``: what
is done with galaxies outside the trained range (:mod:`hiergal.model.trained_range`): ``warn`` (those far outside are
skipped), ``raise``, or ``ignore``; and ``pixel_scale``: width of the pixels that galaxies are drawn on, for models that
have others than their own [arcsec]. Galaxies of such models come on stamps as large as their light. An object whose
conditions are not finite fails, and no other one with it.

The configuration's own random numbers decide everything. The network computes all galaxies of an image (or of a block
of 1,024 of its objects) in one go: when the first is built, the others' numbers are found by going through GalSim's
steps for them on a copy of the configuration. A galaxy whose numbers turn out otherwise (an object that was rejected
and is tried again, say) is computed for itself, so that neither blocks, nor processes, nor order change any pixel. With
``nproc`` the network runs in the process of GalSim's input manager, once for all, and those that draw make objects of
what it computed. The manager's process is a fork: JAX must not have been used before in the process that starts it,
which holds for the ``galsim`` command.

Importing this module registers its types with GalSim, as ``modules`` of a configuration do.
"""

import logging
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import galsim
import galsim.config as gc
import numpy as np

from hiergal.galsim.model import GenerativeGalaxyModel
from hiergal.galsim.requests import Request, deviates_each, noise_seeds, request_from, take_deviates_of_one
from hiergal.galsim.survey_types import register_survey_types
from hiergal.model.conditions import condition_names, conditions_for
from hiergal.model.trained_range import RangeCheck, can_be_computed, check_outside, check_range
from hiergal.recipe.recipe import Recipe
from hiergal.runtime.fork import check_not_forked, jax_is_in_use
from hiergal.simulate.galsim_objects import build_galaxies, warn_of_narrow_psf
from hiergal.simulate.stamps import grid_for_galaxies

__all__ = ["GenerativeModel"]

GALAXIES_PER_CALL = 1024  # objects whose galaxies are computed together
KEPT = 4 * GALAXIES_PER_CALL  # galaxies that are remembered until they are built
KEPT_BYTES = 2**28  # of their profiles, besides those of the last call
INPUT, GALAXY = "generative_model", "GenerativeModelGalaxy"
AHEAD, RECORD = "_hiergal_ahead", "_hiergal_record"  # first object, blocks done; a rehearsal's galaxies
SILENT = logging.getLogger("hiergal.rehearsal")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


class Order(NamedTuple):
    """A galaxy of a configuration: its random numbers and its conditions."""

    deviates: tuple[float, ...]
    conditions: tuple[tuple[str, float], ...]


class About(NamedTuple):
    """Properties of a model for the builder of galaxies, which may be in another process."""

    quantities: tuple[str, ...]
    deviates: int
    psf_fwhm: float | None
    recipe: Recipe
    zero_point: float
    latents: int
    pixel_scale: float | None


class GenerativeModel:
    """A model that computes galaxies in blocks, and keeps them until they are asked for.

    Args:
        file_name: ``hub:NAME``, a path or an address: see :class:`hiergal.GenerativeGalaxyModel`.
        outside: What to do with galaxies unlike those that the model was trained on: ``warn``, ``raise`` or ``ignore``.
        pixel_scale: Width of the pixels that galaxies are drawn on [arcsec]; default that of the model.
    """

    _req_params = {"file_name": str}
    _opt_params = {"outside": str, "pixel_scale": float}

    def __init__(self, file_name: str, outside: str = "warn", pixel_scale: float | None = None) -> None:
        if outside not in ("warn", "raise", "ignore"):
            raise galsim.GalSimConfigValueError("Invalid outside.", outside, ("warn", "raise", "ignore"))
        self._model = GenerativeGalaxyModel(file_name)
        try:
            grid_for_galaxies(self._model.model, pixel_scale)
        except ValueError as error:
            raise galsim.GalSimConfigError(f"{INPUT}: pixel_scale: {error}") from None
        self._outside, self._pixel_scale = outside, pixel_scale
        self._kept: OrderedDict[Order, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # GalSim's manager serves each process by a thread
        self._calls = self._bytes = 0
        self._asked = self._outside_so_far = self._told = 0
        self._psf_told = False

    def about(self) -> About:
        """Return the properties for the builder of galaxies."""
        model = self._model
        return About(
            quantities=condition_names(model.model),
            deviates=deviates_each(model.model),
            psf_fwhm=model.psf_fwhm,
            recipe=model.model.recipe,
            zero_point=model.magnitude_zero_point,
            latents=model.model.recipe.generator.latents,
            pixel_scale=self._pixel_scale,
        )

    def network_calls(self) -> int:
        """Return the number of times that galaxies have been computed."""
        return self._calls

    def find(self, order: Order) -> np.ndarray | None:
        """Return the light profile of a galaxy, if it has been computed."""
        return self._kept.get(order)

    def draw(self, order: Order, others: Sequence[Order] = ()) -> np.ndarray:
        """Compute a galaxy, and others that will be asked for; return the profile of the first [flux per pixel].

        Those that are not to be drawn are left out: their profile is NaN.
        """
        with self._lock:
            wanted = [one for one in dict.fromkeys((order, *others)) if one not in self._kept]
            if wanted:
                self._compute(wanted)
            profile = self._kept[order]
            while len(self._kept) > len(wanted) and (len(self._kept) > KEPT or self._bytes > KEPT_BYTES):
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return profile

    def check(self, order: Order) -> None:
        """Raise an error for a galaxy that is outside the trained range, if that is wished."""
        if self._outside == "raise":
            check_outside(self._model.model, self._request([order]).conditions, "raise")

    def first_psf(self) -> bool:
        """Return whether this is the first time that a PSF is looked at: of one warning, whatever the processes."""
        with self._lock:
            first, self._psf_told = not self._psf_told, True
            return first

    def _compute(self, orders: list[Order]) -> None:
        self._calls += 1
        request = self._request(orders)
        found = check_range(self._model.model, request.conditions)
        if self._outside == "warn":
            self._tell(request, found)
        drawn = ~found.far if self._outside == "warn" else can_be_computed(request.conditions)
        profiles = self._model.profiles(request._replace(drawn=drawn), self._pixel_scale)
        self._bytes += sum(profile.nbytes for profile in profiles)
        self._kept.update(zip(orders, profiles, strict=True))

    def _tell(self, request: Request, found: RangeCheck) -> None:
        """Warn of the first galaxies outside, and again when they are twice as many as were told of."""
        self._asked += len(found.outside)
        self._outside_so_far += int(found.outside.sum())
        if not found.outside.any() or self._outside_so_far < 2 * self._told:
            return
        before = f"{self._outside_so_far} of {self._asked} so far; now " if self._told else ""
        self._told = self._outside_so_far
        check_outside(self._model.model, request.conditions, "warn", found=found, prefix=before, stacklevel=5)

    def _request(self, orders: list[Order]):
        """Galaxies with the same conditions known, as a catalogue: those of one field of a configuration."""
        model = self._model.model
        deviates = np.array([order.deviates for order in orders])
        base = np.empty((len(orders), model.recipe.generator.latents), np.float32)
        conditions = np.empty((len(orders), len(condition_names(model))), np.float32)
        seeds = np.empty(len(orders), np.int64)
        kinds = [tuple(name for name, _ in order.conditions) for order in orders]
        for kind in dict.fromkeys(kinds):
            rows = np.flatnonzero([other == kind for other in kinds])
            values = np.array([[value for _, value in orders[row].conditions] for row in rows])
            catalog = dict(zip(kind, values.reshape(len(rows), len(kind)).T, strict=True))
            known = conditions_for(model, catalog) if len(kind) == conditions.shape[1] else None
            part = request_from(model, deviates[rows], catalog, known)
            base[rows], conditions[rows], seeds[rows] = part[:3]
        return part._replace(base=base, conditions=conditions, noise_seed=seeds)


def _build_galaxy(
    config: dict[str, Any], base: dict[str, Any], ignore: list[str], gsparams: dict[str, Any], logger: Any
) -> tuple[galsim.GSObject, bool]:
    """Build one galaxy: what GalSim calls for each object of this type."""
    model = gc.GetInputObj(INPUT, config, base, GALAXY)
    about = model.about()
    floats = ("half_light_radius", "magnitude_zero_point", "pad_factor", "noise_pad_size")
    texts = ("x_interpolant", "k_interpolant", "missing", "noise_pad")
    kinds = (
        dict.fromkeys((*about.quantities, *floats), float) | dict.fromkeys(texts, str) | {"deconvolve": bool}
    )
    try:
        values, _ = gc.GetAllParams(config, base, opt=kinds, ignore=[*ignore, "num", "flux"])
    except (IndexError, KeyError, AttributeError, TypeError) as error:  # GalSim's, of a field without a value
        raise galsim.GalSimConfigError(f"{GALAXY}: expected fields that GalSim reads, got: {error}") from None
    _check_fields(values, about.quantities)
    conditions = tuple((name, values[name]) for name in about.quantities if name in values)
    deviates = take_deviates_of_one(gc.GetRNG(config, base, logger, GALAXY), about.deviates)
    order = Order(deviates, conditions)
    # Which of the models of the input it is.
    number = gc.ParseValue(config, "num", base, int)[0] if "num" in config else 0
    if RECORD in base:
        base[RECORD].append((number, order))
        return galsim.Gaussian(half_light_radius=values.get("half_light_radius", 0.3)), False
    _check_finite(order)
    model.check(order)
    profile = model.find(order)
    if profile is None:
        _check_psf(base, about, model)
        profile = model.draw(order, _orders_ahead(base, number, logger))
    if not np.isfinite(profile[0, 0]):
        asked = ", ".join(f"{name} {value:.4g}" for name, value in conditions)
        raise gc.SkipThisObject(f"({GALAXY}: {asked}: far outside the trained range)")
    given = (name for name in (*floats, "x_interpolant", "k_interpolant", "deconvolve") if name in values)
    options: dict[str, Any] = {name: values[name] for name in given} | {
        "pixel_scale_arcsec": about.pixel_scale
    }
    if values.get("noise_pad_size", 0) > 0 and "noise_pad" in values:
        options["noise"] = _noise_of(values["noise_pad"])
        options["noise_seed"] = noise_seeds(np.array([deviates]), about.latents)
    if gsparams:
        options["gsparams"] = galsim.GSParams(**gsparams)
    return build_galaxies(about.recipe, about.zero_point, [profile], **options)[0], False


def _noise_of(text: str) -> float | str:
    """A variance, or the name of a file that GalSim measures one in."""
    try:
        return float(text)
    except ValueError:
        if not os.path.isfile(text):
            raise galsim.GalSimConfigError(
                f"{GALAXY}: noise_pad: expected a variance, or a file with an image of noise, got {text}"
            ) from None
        return text


def _check_finite(order: Order) -> None:
    """Make an object without numbers fail for itself, before those that are computed with it are asked for."""
    largest = np.finfo(np.float32).max
    bad = [f"{name} {value}" for name, value in order.conditions if value is None or not abs(value) < largest]
    if bad:
        raise galsim.GalSimConfigError(
            f"{GALAXY}: expected finite conditions, got {', '.join(bad)}; drop this object, or skip it with "
            "stamp.skip_failures"
        )


def _check_fields(values: dict[str, Any], quantities: tuple[str, ...]) -> None:
    missing = values.get("missing", "raise")
    if missing not in ("raise", "population"):
        raise galsim.GalSimConfigValueError("Invalid missing.", missing, ("raise", "population"))
    absent = [name for name in quantities if name not in values]
    if absent and missing == "raise":
        raise galsim.GalSimConfigError(
            f"{GALAXY}: expected the fields {', '.join(quantities)}, which the model is conditioned on; missing: "
            f"{', '.join(absent)}; add them, or draw them from the model's population with missing: population"
        )


def _check_psf(base: dict[str, Any], about: About, model: GenerativeModel) -> None:
    """Warn once of a PSF that is narrower than the training survey's, as far as it can be measured."""
    psf = base.get("psf", {}).get("current", (None,))[0]
    if psf is not None and about.psf_fwhm is not None and model.first_psf():
        warn_of_narrow_psf(psf, about.psf_fwhm, stacklevel=3)


def _orders_ahead(base: dict[str, Any], model: int, logger: Any) -> list[Order]:
    """Find a model's galaxies of the other objects of this block, by going through GalSim's steps for them."""
    start, done = base.setdefault(AHEAD, (base.get("start_obj_num", 0), set()))
    block = (
        model,
        base.get("file_num", 0),
        base.get("image_num", 0),
        (base["obj_num"] - start) // GALAXIES_PER_CALL,
    )
    stamp = base.get("stamp", {})
    if block in done or "random_seed" not in base.get("image", {}) or not stamp.get("obj_rng", True):
        return []  # once is enough; and random numbers that are not an object's own cannot be foreseen
    done.add(block)
    first = start + block[-1] * GALAXIES_PER_CALL
    last = min(first + GALAXIES_PER_CALL, start + _objects_of_image(base, logger))
    copy = gc.CopyConfig(base)
    gc.RemoveCurrent(copy, keep_safe=True)  # or this object's values would not be drawn again
    orders: list[Order] = []
    sizes = base.get("stamp_xsize", 0), base.get("stamp_ysize", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GalSim warns of an object when it draws it
        for number in range(first, last):
            copy[RECORD] = []
            try:
                _rehearse(copy, number, sizes, SILENT)
                for _, order in copy[RECORD]:
                    _check_finite(order)
            except Exception:  # noqa: BLE001, S112 (an object that is skipped or fails does so when its turn comes)
                continue
            orders += [order for its_model, order in copy[RECORD] if its_model == model]
    return orders


def _rehearse(base: dict[str, Any], number: int, sizes: tuple[int, int], logger: Any) -> None:
    """Repeat galsim.config.BuildStamp until the profile of an object is there."""
    gc.SetupConfigObjNum(base, number, logger)
    stamp = base["stamp"]
    builder = gc.valid_stamp_types[stamp["type"]]
    if builder.quickSkip(stamp, base):
        return
    builder.setupRNG(stamp, base, logger)
    located = builder.setup(stamp, base, *sizes, gc.stamp_ignore, logger)
    builder.locateStamp(stamp, base, *located, logger)
    if builder.getSkip(stamp, base, logger):
        return
    gsparams = gc.UpdateGSParams({}, stamp["gsparams"], base) if "gsparams" in stamp else {}
    psf = builder.buildPSF(stamp, base, gsparams, logger)
    builder.buildProfile(stamp, base, psf, gsparams, logger)


def _objects_of_image(base: dict[str, Any], logger: Any) -> int:
    """Number of objects of the image; if that is random, the one that GalSim has just drawn."""
    number = base["image"].get("nobjects")
    if isinstance(number, dict) and "current" in number:
        return number["current"][0]
    copy = gc.CopyConfig(base)
    copy["index_key"] = "image_num"
    return gc.GetNObjForImage(copy, base.get("image_num", 0), logger=logger)


class _Loader(gc.InputLoader):
    """Loads a model, unless it would have to run where JAX cannot."""

    def getKwargs(self, config: dict[str, Any], base: dict[str, Any], logger: Any):  # noqa: N802 (GalSim's name)
        """Find the arguments of the model."""
        if not isinstance(config, dict):
            raise galsim.GalSimConfigError(
                f"{INPUT}: expected a field file_name with a model, got {config!r:.80}"
            )
        if "_input_manager" in base and jax_is_in_use():
            raise galsim.GalSimConfigError(
                f"{INPUT}: expected a process that has not used JAX yet, as nproc makes GalSim fork it, and JAX hangs "
                "in forks; run this configuration with the galsim command, or with nproc: 1"
            )
        check_not_forked()
        return super().getKwargs(config, base, logger)

    def setupImage(self, input_obj: Any, config: dict[str, Any], base: dict[str, Any], logger: Any):  # noqa: N802
        """Forget which blocks were computed for the image before, also where a configuration is built again."""
        base[AHEAD] = base.get("obj_num", 0), set()


gc.RegisterInputType(INPUT, _Loader(GenerativeModel))
gc.RegisterObjectType(GALAXY, _build_galaxy, input_type=INPUT)
register_survey_types()
