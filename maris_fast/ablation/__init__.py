"""The paper's ablations in turn: plan -> runs -> ablation.json -> the paper's layout."""
