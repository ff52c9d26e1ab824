"""What is observed: stamps with PSF, noise, mask and catalogue row in one record, and the doors that lead there."""

from hiergal.observation.observation import Observation, check_observation

__all__ = ["Observation", "check_observation"]
