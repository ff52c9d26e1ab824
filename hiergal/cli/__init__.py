"""The ``hiergal`` command."""

__all__: list[str] = []
