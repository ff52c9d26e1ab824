"""Statistics of images: sizes, shapes, structure, power; each definition once."""

__all__: list[str] = []
