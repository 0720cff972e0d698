"""Scores of weights and of any model's masks on a data set, their comparison, and their files."""
