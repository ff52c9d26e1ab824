"""New galaxies: profiles for a catalogue, rendered, as GalSim objects or in files."""

from hiergal.runtime.namespace import submodules

__all__: list[str] = []

__getattr__ = submodules(__name__)
