"""Scenes: the joint posterior of several overlapping galaxies."""

__all__: list[str] = []
