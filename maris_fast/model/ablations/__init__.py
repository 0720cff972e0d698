"""What the paper's ablations put in the place of a part of MARIS; docs/ablations.md says what is a guess."""
