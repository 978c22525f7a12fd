"""Settings of Hypothesis: no test may fail because the machine is slow, and in CI each run tries the same examples."""

import os

from hypothesis import settings

settings.register_profile("untimed", parent=settings.default, deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("untimed")
