"""Galaxies inside GalSim: what belongs to its configuration files."""

__all__: list[str] = []
