"""Masks of many photographs: what is asked, what is done already, and the files it becomes."""
