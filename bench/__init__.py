"""Microbenchmarks, what they gave by device, and the report that draws it."""
