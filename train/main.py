"""Entry point of a training run.

::

    deepspeed train/main.py --config train/configs/refcoco.yaml [--config ...] [section.key=value ...]
    torchrun --nproc-per-node 8 train/main.py --config ...
    srun --ntasks-per-node 8 python train/main.py --config ...
    python train/main.py --config ...                        one rank
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maris_fast.config import TrainingSettings

HERE = Path(__file__).resolve().parent
USAGE_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a training; returns the process's exit status, 2 for an error that the user can act on."""
    options = _parsed(arguments)
    _find_package()
    from maris_fast.system.standard_streams import sturdy

    with sturdy():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    from maris_fast.errors import MarisError
    from maris_fast.system.linux import require_linux
    from maris_fast.system.terminal import PrintableFormatter

    logging.basicConfig()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    try:
        require_linux()
        settings = _settings(options)
        if options.dry_run:
            _show(settings, options.ranks)
            return 0
        _train(settings)
    except MarisError as error:
        from maris_fast.train.rank_output import report_error

        report_error(error)
        return USAGE_ERROR
    return 0


def check(arguments: Sequence[str]) -> None:
    """Checks the arguments, as far as possible before anything slow is imported or started.

    Raises:
        ConfigError: settings that cannot be used.
        InputError: no cache, or one without the named splits.
    """
    from maris_fast.train.cache_splits import require_own_splits

    options = _parsed(arguments)
    settings = _settings(options)
    if not options.dry_run:
        require_own_splits(settings.data)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_intermixed_args(arguments)
    if options.ranks is not None and not options.dry_run:
        parser.error(
            "--ranks needs --dry-run; launch several ranks with deepspeed --num_gpus N, "
            "torchrun --nproc-per-node N, or maris-fast train --ranks N"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train/main.py",
        description="Trains MARIS on a cache of features, on one or many ranks.",
        epilog="launch: deepspeed train/main.py ..., torchrun --nproc-per-node N train/main.py ..., "
        "or python train/main.py ... for one rank",
    )
    parser.add_argument(
        "--config",
        type=Path,
        required=True,
        action="append",
        help="YAML of a run, or the name of one in train/configs, such as refcoco; again: later files win",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="on top of the files")
    parser.add_argument("--resume", choices=("never", "auto", "restart"), help="the same as run.resume=...")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the settings and DeepSpeed's configuration, and end"
    )
    parser.add_argument(
        "--ranks", type=int, help="with --dry-run: for this many ranks instead of those started now"
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help="set by launchers")
    return parser


def _find_package() -> None:
    """Takes this file's folder, with its generic module names, off the path, and adds the clone if needed."""
    if sys.path and sys.path[0] == str(HERE):
        del sys.path[0]
    if find_spec("maris_fast") is not None:
        return
    clone = HERE.parent
    if not (clone / "maris_fast" / "__init__.py").is_file():
        sys.exit("maris_fast is not installed in this Python; run `pip install -e .` in the clone, or `make`")
    # Last on the path: other packages may import a `kernels` of their own.
    sys.path.append(str(clone))


def _settings(options: argparse.Namespace) -> TrainingSettings:
    from maris_fast.config import TrainingSettings, load_settings

    overrides = [*options.overrides]
    if options.resume is not None:
        overrides.append(f"run.resume={options.resume}")
    return load_settings(TrainingSettings, options.config, overrides)


def _show(settings: TrainingSettings, ranks: int | None) -> None:
    from maris_fast.config import dump_settings
    from maris_fast.system.launchers import place_of
    from maris_fast.train.deepspeed_config import deepspeed_config

    place = place_of()
    world = ranks or place.world
    generated = json.dumps(deepspeed_config(settings, world), indent=2)
    if place.rank == 0:
        print(f"{dump_settings(settings)}\n# DeepSpeed's configuration for {world} ranks\n{generated}")


def _train(settings: TrainingSettings) -> None:
    from maris_fast.system.launchers import take_place
    from maris_fast.system.terminal import say
    from maris_fast.train.announcement import before_loading
    from maris_fast.train.cache_splits import require_known_splits
    from maris_fast.train.deepspeed_config import deepspeed_config

    # Before the slow imports.
    place = take_place()
    deepspeed_config(settings, place.world)
    require_known_splits(settings.data)
    if place.rank == 0:
        say(before_loading(settings, place.world))
    from maris_fast.train.heartbeat import Heartbeat
    from maris_fast.train.loop import train
    from maris_fast.train.ranks import join, leave

    ranks = join(settings.engine)
    with Heartbeat(ranks, settings.engine):
        train(settings, ranks, _write_report if settings.run.report else None)
        leave()


def _write_report(folder: Path, page: Path) -> None:
    from maris_fast.reports import write_report

    write_report([folder], page)


if __name__ == "__main__":
    sys.exit(main())
