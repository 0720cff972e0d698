"""Scores of weights and of anybody's masks on a data set, two of them compared, and the files they are in."""
