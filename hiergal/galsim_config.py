"""Galaxies of a trained model in GalSim's configuration files, as galsim_hub had them (Lanusse et al. 2020, App. A).

    modules: [hiergal.galsim_config]
    input:
        generative_model: {file_name: 'hub:mock-acs'}
    gal:
        type: GenerativeModelGalaxy
        mag_auto: {type: Catalog, col: mag_auto}
        flux_radius: 9.0
        zphot: 0.8

Fields of the galaxy are the model's conditions; ``flux`` and ``half_light_radius`` (exact values), and
``magnitude_zero_point``, ``pad_factor``, ``x_interpolant``, ``k_interpolant`` as for
:meth:`hiergal.GenerativeGalaxyModel.sample`; ``missing: population`` draws conditions that are not named. Fields of the
input are ``file_name`` and ``outside`` (``warn``, ``raise``, ``ignore``: galaxies unlike those trained on).

The configuration's own random numbers decide everything. The network computes all galaxies of an image (or of a block
of 1,024 of its objects) in one go: when the first is built, the others' numbers are found by going through GalSim's
steps for them on a copy of the configuration. A galaxy whose numbers turn out otherwise (an object that was rejected
and is tried again, say) is computed for itself, so that neither blocks, nor processes, nor order change any pixel. With
``nproc`` the network runs in the process of GalSim's input manager, once for all, and those that draw make objects of
what it computed. The manager's process is a fork: JAX must not have been used before in the process that starts it,
which holds for the ``galsim`` command.

Importing this module registers its types with GalSim, as ``modules`` of a configuration do.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import galsim
import galsim.config as gc
import numpy as np

from hiergal.conditions import condition_names, conditions_for
from hiergal.galsim_model import GenerativeGalaxyModel, build_galaxies, warn_of_narrow_psf
from hiergal.galsim_requests import check_outside, deviates_each, request_from, take_deviates_of_one
from hiergal.galsim_surveys import register_survey_types
from hiergal.recipe import Recipe

__all__ = ["GenerativeModel"]

BLOCK = 1024  # objects whose galaxies are computed together
KEPT = 4 * BLOCK  # galaxies that are remembered until they are built
INPUT, GALAXY = "generative_model", "GenerativeModelGalaxy"
AHEAD, RECORD = "_hiergal_ahead", "_hiergal_record"  # blocks done; where a rehearsal notes its galaxies


class Order(NamedTuple):
    """A galaxy that a configuration asks for: its random numbers and its conditions."""

    deviates: tuple[float, ...]
    conditions: tuple[tuple[str, float], ...]


class About(NamedTuple):
    """What the builder of galaxies has to know of a model, in whichever process the model is."""

    quantities: tuple[str, ...]
    deviates: int
    psf_fwhm: float | None
    recipe: Recipe
    zero_point: float


class GenerativeModel:
    """A model that computes galaxies in blocks, and keeps them until they are asked for.

    Args:
        file_name: ``hub:NAME``, a path or an address: see :class:`hiergal.GenerativeGalaxyModel`.
        outside: What to do with galaxies unlike those that the model was trained on: ``warn``, ``raise`` or ``ignore``.
    """

    _req_params = {"file_name": str}
    _opt_params = {"outside": str}

    def __init__(self, file_name: str, outside: str = "warn") -> None:
        if outside not in ("warn", "raise", "ignore"):
            raise galsim.GalSimConfigValueError("Invalid outside.", outside, ("warn", "raise", "ignore"))
        self._model = GenerativeGalaxyModel(file_name)
        self._outside = outside
        self._kept: OrderedDict[Order, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()  # GalSim's manager serves each process by a thread
        self._calls = 0

    def about(self) -> About:
        """Return what builders have to know."""
        model = self._model
        return About(
            quantities=condition_names(model.model),
            deviates=deviates_each(model.model),
            psf_fwhm=model.psf_fwhm,
            recipe=model.model.recipe,
            zero_point=model.magnitude_zero_point,
        )

    def network_calls(self) -> int:
        """Return how often galaxies have been computed."""
        return self._calls

    def find(self, order: Order) -> np.ndarray | None:
        """Return the light profile of a galaxy, if it has been computed."""
        return self._kept.get(order)

    def draw(self, order: Order, others: Sequence[Order] = ()) -> np.ndarray:
        """Compute a galaxy, and others that will be asked for; return the profile of the first [flux per pixel]."""
        with self._lock:
            wanted = [one for one in dict.fromkeys((order, *others)) if one not in self._kept]
            if wanted:
                self._compute(wanted)
            profile = self._kept[order]
            while len(self._kept) > max(KEPT, len(wanted)):
                self._kept.popitem(last=False)
            return profile

    def check(self, order: Order) -> None:
        """Raise an error for a galaxy that is unlike those trained on, if that is wished."""
        if self._outside == "raise":
            check_outside(self._model.model, self._request([order]).conditions, "raise")

    def _compute(self, orders: list[Order]) -> None:
        self._calls += 1
        request = self._request(orders)
        if self._outside == "warn":
            check_outside(self._model.model, request.conditions, "warn")
        self._kept.update(zip(orders, self._model.profiles(request), strict=True))

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
            base[rows], conditions[rows], seeds[rows] = part
        return part._replace(base=base, conditions=conditions, noise_seed=seeds)


def _build_galaxy(
    config: dict[str, Any], base: dict[str, Any], ignore: list[str], gsparams: dict[str, Any], logger: Any
) -> tuple[galsim.GSObject, bool]:
    """Build one galaxy: what GalSim calls for each object of this type."""
    model = gc.GetInputObj(INPUT, config, base, GALAXY)
    about = model.about()
    floats = (*about.quantities, "half_light_radius", "magnitude_zero_point", "pad_factor")
    texts = ("x_interpolant", "k_interpolant", "missing")
    kinds = dict.fromkeys(floats, float) | dict.fromkeys(texts, str)
    values, _ = gc.GetAllParams(config, base, opt=kinds, ignore=[*ignore, "num", "flux"])
    _check_fields(values, about.quantities)
    conditions = tuple((name, values[name]) for name in about.quantities if name in values)
    deviates = take_deviates_of_one(gc.GetRNG(config, base, logger, GALAXY), about.deviates)
    order = Order(deviates, conditions)
    # Which of the models of the input it is.
    number = gc.ParseValue(config, "num", base, int)[0] if "num" in config else 0
    if RECORD in base:
        base[RECORD].append((number, order))
        return galsim.Gaussian(half_light_radius=values.get("half_light_radius", 0.3)), False
    model.check(order)
    profile = model.find(order)
    if profile is None:
        _check_psf(base, about)
        profile = model.draw(order, _orders_ahead(base, number, logger))
    options = {name: values[name] for name in values if name not in (*about.quantities, "missing")}
    if gsparams:
        options["gsparams"] = galsim.GSParams(**gsparams)
    return build_galaxies(about.recipe, about.zero_point, profile[None], **options)[0], False


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


def _check_psf(base: dict[str, Any], about: About) -> None:
    """Warn of a PSF that is narrower than the training survey's, as far as it can be measured."""
    psf = base.get("psf", {}).get("current", (None,))[0]
    if isinstance(psf, galsim.GSObject) and about.psf_fwhm is not None:
        warn_of_narrow_psf(psf.calculateFWHM(), about.psf_fwhm)


def _orders_ahead(base: dict[str, Any], model: int, logger: Any) -> list[Order]:
    """Find a model's galaxies of the other objects of this block, by going through GalSim's steps for them."""
    start = base.get("start_obj_num", 0)
    block = (
        model,
        base.get("file_num", 0),
        base.get("image_num", 0),
        (base["obj_num"] - start) // BLOCK,
    )
    done = base.setdefault(AHEAD, set())
    stamp = base.get("stamp", {})
    if block in done or "random_seed" not in base.get("image", {}) or not stamp.get("obj_rng", True):
        return []  # once is enough; and random numbers that are not an object's own cannot be foreseen
    done.add(block)
    first = start + block[-1] * BLOCK
    last = min(first + BLOCK, start + _objects_of_image(base, logger))
    copy = gc.CopyConfig(base)
    gc.RemoveCurrent(copy, keep_safe=True)  # or this object's values would not be drawn again
    orders: list[Order] = []
    sizes = base.get("stamp_xsize", 0), base.get("stamp_ysize", 0)
    for number in range(first, last):
        copy[RECORD] = []
        try:
            _rehearse(copy, number, sizes, logger)
        except Exception:  # noqa: BLE001, S112 (an object that is skipped or fails does so when its turn comes)
            continue
        orders += [order for its_model, order in copy[RECORD] if its_model == model]
    return orders


def _rehearse(base: dict[str, Any], number: int, sizes: tuple[int, int], logger: Any) -> None:
    """What galsim.config.BuildStamp does until the profile of an object is there."""
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
    """How many objects the image has; if that is random, as many as GalSim found a moment ago."""
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
        if "_input_manager" in base and _jax_is_in_use():
            raise galsim.GalSimConfigError(
                f"{INPUT}: expected a process that has not used JAX yet, as nproc makes GalSim fork it, and JAX hangs "
                "in forks; run this configuration with the galsim command, or with nproc: 1"
            )
        return super().getKwargs(config, base, logger)


def _jax_is_in_use() -> bool:
    from jax._src import xla_bridge  # JAX tells nobody else

    return xla_bridge.backends_are_initialized()


gc.RegisterInputType(INPUT, _Loader(GenerativeModel))
gc.RegisterObjectType(GALAXY, _build_galaxy, input_type=INPUT)
register_survey_types()
