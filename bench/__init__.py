"""Microbenchmarks, their results by device, and the report drawn from them."""
