"""Calibration of posteriors: ranks, coverage, z-scores, each with a verdict."""

__all__: list[str] = []
