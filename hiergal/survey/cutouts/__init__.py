"""Surveys of cutouts of any instrument: their files, layouts, masks and PSFs."""

__all__: list[str] = []
