"""Noise of surveys: its power spectrum, measured in source-free pixels, and the choice of it."""

__all__: list[str] = []
