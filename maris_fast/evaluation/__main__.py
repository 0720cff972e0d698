"""Entry of an evaluation for any launcher; see ``evaluate``."""

import sys

from maris_fast.evaluation.evaluate import main

sys.exit(main())
