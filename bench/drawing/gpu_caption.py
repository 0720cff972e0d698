"""What a caption says of the GPU that its rows were measured on."""

from __future__ import annotations

from maris_fast.bench.results import Suite


def gpu_told(suite: Suite) -> list[str]:
    """Driver, SM clock, power limit and other processes, where they were recorded (bench/conditions.py)."""

    def values(name: str) -> list[float]:
        return [value for row in suite.rows for value in row.get(name, ()) if value is not None]

    told = []
    if driver := suite.environment.get("driver"):
        told.append(f"driver {driver}")
    if clocks := values("sm_mhz"):
        told.append(f"SM clock {min(clocks):,.0f} to {max(clocks):,.0f} MHz")
    if limits := values("power_limit_w"):
        told.append(f"power limit {max(limits):,.0f} W")
    shared = sum(any(row.get("other_gpu_processes", ())) for row in suite.rows)
    if shared:
        told.append(f"other processes used the GPU during {shared} of {len(suite.rows)} rows")
    return told
