"""The ground that everything stands on: who owns an output, and how it is written."""

__all__: list[str] = []
