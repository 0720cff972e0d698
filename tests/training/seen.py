"""``train/main.py`` that also records the sentences of each step, in ``$SEEN/<rank>.jsonl``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from maris_fast.train.loop import Trainer
from maris_fast.train.main import main

real_step = Trainer._step


def step(self: Trainer, parts: Any) -> Any:
    with Path(os.environ["SEEN"], f"{self.ranks.rank}.jsonl").open("a") as lines:
        for part in parts:
            real = [
                s.sent_id for s, weight in zip(part.samples, part.weights.tolist(), strict=True) if weight
            ]
            lines.write(json.dumps({"step": self.step, "sentences": real}) + "\n")
    return real_step(self, parts)


if __name__ == "__main__":
    Trainer._step = step  # type: ignore[method-assign]
    sys.exit(main())
