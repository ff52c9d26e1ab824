"""New galaxies: profiles for a catalogue, rendered, as GalSim objects or in files."""

__all__: list[str] = []
