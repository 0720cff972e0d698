"""The paper's ablations in turn: runs -> training and scores -> ablation.json -> the paper's layout."""
