"""``maris-fast eval`` under any launcher; its processes share the work.

::

    deepspeed --num_gpus 2 --module maris_fast.evaluation WEIGHTS CACHE --split val ...
"""

import sys

from maris_fast.cli import app

app(["eval", "--ranks", "0", *sys.argv[1:]], prog_name="maris_fast.evaluation")
