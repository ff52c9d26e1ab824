"""The quickstart: the whole path on a mock survey, and its report."""

__all__: list[str] = []
