"""Replacements of MARIS' parts in the paper's ablations; docs/ablations.md says what is a guess."""
