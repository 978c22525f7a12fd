"""Settings of Hypothesis: no test may fail because the machine is slow."""

from hypothesis import settings

settings.register_profile("untimed", parent=settings.default, deadline=None)
settings.load_profile("untimed")
