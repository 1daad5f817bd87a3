"""`tandem up` with a fake gateway and ranks that only wait, run as a script.

python stand_in_up.py LISTEN MODEL_FOLDER [WHAT_THE_RANKS_RUN]
"""

import asyncio
import sys
from pathlib import Path

from common.commands.up import serve
from common.commands.up_settings import UpSettings
from common.process import set_up_logging
from common.supervisor import Stage
from common.supervisor_child import ChildCommand

FAKE_GATEWAY = Path(__file__).parents[1] / "fake_gateway.py"
RANK = """
import signal, sys, time
from common.parent_death import die_with_parent_if_told
die_with_parent_if_told()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
time.sleep(60)
"""


def plan(
    settings: UpSettings, model: Path, listen: str, folder: Path, cores: int, rank_code: str = RANK
) -> list[Stage]:
    (folder / "rendezvous").write_text("left behind by the ranks")
    ranks = [ChildCommand(f"rank {rank}", (sys.executable, "-c", rank_code)) for rank in range(settings.tp)]
    gateway = ChildCommand("gateway", (sys.executable, str(FAKE_GATEWAY), listen))
    return [Stage(ranks, 5.0), Stage([gateway], 5.0)]


if __name__ == "__main__":
    set_up_logging("up")
    listen, model, *rank_code = sys.argv[1:]
    settings = UpSettings(listen=listen, model=model, tp=2)
    sys.exit(asyncio.run(serve(settings, lambda *arguments: plan(*arguments, *rank_code))))
