"""Masks of many photographs: requests, the record of finished predictions, and output files."""
