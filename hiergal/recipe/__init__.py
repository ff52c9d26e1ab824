"""Recipes: how a model is built and trained, as data."""

__all__: list[str] = []
