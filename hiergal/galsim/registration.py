"""Names of hiergal's types in GalSim's configurations, registered without loading what they need.

``modules: [hiergal]`` imports the package, which is light: the types stand in for those of
:mod:`hiergal.galsim.config`, and load it when a configuration uses one. ``modules: [hiergal.galsim_config]`` does the
same at once, and also where hiergal was imported before GalSim.
"""

from typing import Any

__all__ = ["register_types"]

INPUT, GALAXY = "generative_model", "GenerativeModelGalaxy"


def register_types() -> None:
    """Register the input, the galaxy and the surveys with GalSim, unless they are registered."""
    import galsim.config as gc

    if INPUT in gc.valid_input_types:
        return

    class Later(gc.InputLoader):
        """Loads :mod:`hiergal.galsim.config`, which takes its place, when something is asked of it."""

        def __init__(self) -> None:
            super().__init__(None)

        def __getattribute__(self, name: str) -> Any:
            if name in ("init_func", "getKwargs", "useProxy", "initialize", "setupImage"):
                return getattr(_loaded(), name)
            return object.__getattribute__(self, name)

    def _loaded() -> gc.InputLoader:
        import hiergal.galsim.config  # noqa: F401 (registers its own)

        return gc.valid_input_types[INPUT]

    def build_galaxy(*arguments: Any) -> Any:
        _loaded()
        return gc.valid_gsobject_types[GALAXY](*arguments)

    from hiergal.galsim.survey_types import register_survey_types

    gc.RegisterInputType(INPUT, Later())
    gc.RegisterObjectType(GALAXY, build_galaxy, input_type=INPUT)
    register_survey_types()
