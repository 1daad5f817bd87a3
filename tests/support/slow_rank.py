"""Run as a module: the `tandem` command, with ranks whose every pass takes STEP_S longer, without computing.

So drafting pays whatever else the machine does, however small the model is.
"""

import time
from typing import Any

from common.cli.main import main
from shard_worker import engine
from shard_worker.passes import Passes
from shard_worker.plan import Rows
from shard_worker.step_logits import first_drawn

STEP_S = 0.02


def _slowed(computed: Any) -> Any:
    def slow(passes: Passes, rows: Rows, *arguments: Any) -> Any:
        time.sleep(STEP_S * (1 + rows.num_continued))
        return computed(passes, rows, *arguments)

    return slow


if __name__ == "__main__":
    vars(engine)["first_drawn"] = _slowed(first_drawn)
    main()
