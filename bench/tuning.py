"""Block sizes of mutual_attention, tuned on this machine: which problems, and where the result goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maris_fast.bench.results import ROOT, commit_told, device_folder
from maris_fast.errors import ConfigError
from maris_fast.kernels import UnsupportedError
from maris_fast.kernels.mutual_attention.measured import ELEMENT_BYTES, Case, Problem
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

# A training step's; and what the interpreter can bear, which only shows that tuning works.
TRAINING: dict[str, list[Any]] = {"dtypes": ["bfloat16"], "words": [16, 32, 64, 77], "channels": [256]}
TRAINING_SIZES = {"L_v": 4096, "images": 32, "expressions": 1}
INTERPRETED: dict[str, list[Any]] = {"dtypes": ["float32"], "words": [7], "channels": [32]}
INTERPRETED_SIZES = {"L_v": 64, "images": 1, "expressions": 1}


def problems(
    interpreted: bool,
    dtypes: Sequence[str] | None,
    words: Sequence[int] | None,
    channels: Sequence[int] | None,
    sizes: Mapping[str, int | None],
) -> list[Problem]:
    """What to tune: every dtype, C and number of words; None stands for the usual ones.

    Raises:
        ConfigError: an unknown dtype, or problems that a call could not tell apart.
    """
    usual, usual_sizes = (INTERPRETED, INTERPRETED_SIZES) if interpreted else (TRAINING, TRAINING_SIZES)
    unknown = set(dtypes or ()) - set(ELEMENT_BYTES)
    if unknown:
        raise ConfigError(f"--dtype {', '.join(sorted(unknown))}; known are {', '.join(ELEMENT_BYTES)}")
    whole = {name: sizes.get(name) or usual_size for name, usual_size in usual_sizes.items()}
    found = [
        Problem(dtype=dtype, L_t=L_t, C=C, **whole)
        for dtype in dtypes or usual["dtypes"]
        for C in channels or usual["channels"]
        for L_t in words or usual["words"]
    ]
    if len({problem.key for problem in found}) < len(found):
        raise ConfigError(
            "two of these problems have the same element size, word block and C, so a call could not tell "
            "them apart; tune one of them"
        )
    return found


def tune_to(
    out: Path | None,
    dtypes: Sequence[str] | None,
    words: Sequence[int] | None,
    channels: Sequence[int] | None,
    sizes: Mapping[str, int | None],
    say: Callable[[str], None],
) -> Path:
    """Tunes every problem and writes the file after each, so that a stopped run keeps what it found.

    Without ``out`` it is bench/results/<device>/mutual_attention_blocks.json.

    Raises:
        ConfigError: see ``problems``; or the kernels can't run here, or no candidate was right.
    """
    try:
        from maris_fast.kernels.mutual_attention import tuning
    except ImportError as error:
        raise ConfigError(f"tuning needs triton, and it can't be imported ({error})") from error
    interpreted = tuning.INTERPRETED
    device = torch.device("cuda" if torch.cuda.is_available() and not interpreted else "cpu")
    here = environment(Ranks(device))
    folder = ROOT / "bench" / "results" / ("interpreter" if interpreted else device_folder(here))
    file = out or folder / "mutual_attention_blocks.json"
    cases: list[Case] = []
    for problem in problems(interpreted, dtypes, words, channels, sizes):
        say(str(problem))
        try:
            cases.append(
                tuning.tune(
                    problem,
                    device,
                    told=lambda part, walk, count, outcome: say(
                        f"  {part}, {count} candidates or more; {walk}: {outcome}"
                    ),
                )
            )
        except UnsupportedError as error:
            raise ConfigError(str(error)) from error
        result = tuning.measured(cases, device, commit_told(here))
        result.save(file)
        if result.warning:
            say(result.warning)
    return file
