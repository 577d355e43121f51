"""How many inputs each property is tried on: few in `make test`, many in `make fuzz`; unless it says."""

import os
from datetime import timedelta

from hypothesis import HealthCheck, settings

settings.register_profile(
    "mmq",
    max_examples=int(os.environ.get("MMQ_FUZZ_EXAMPLES", "60")),
    deadline=timedelta(seconds=30),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("mmq")
