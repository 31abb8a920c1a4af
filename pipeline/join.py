"""Takes part in a training that node 0 leads, as another node of `runtime.launcher: c10d`.

    python -m pipeline.join [HOST:PORT] [--wait SECONDS]

Node 0 runs `dvc repro`, which prints this command with its address and secret. A node waits for
node 0, compares params, data, code and torch with it, trains, and ends when the run is done; after
an interruption it comes back by itself. Only node 0 writes results.
"""

import math
import sys
from collections.abc import Mapping

from pipeline import DVC_FILE, ROOT, load_params
from pipeline.checks.seal import Seal
from pipeline.cli import Parser, one_line, stop
from pipeline.prepare import PATHS, prepare


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("address", nargs="?", metavar="HOST:PORT",
                        help="default: runtime.rendezvous, or what the environment says")
    parser.add_argument("--wait", type=float, default=math.inf, metavar="SECONDS",
                        help="longest wait for node 0 (default: for ever)")
    arguments = parser.parse_args()
    with one_line():
        from reprogpt.launch.join import join
        from reprogpt.launch.launcher import TrainingFailed
        from reprogpt.launch.network import Rendezvous, node_rank
        from reprogpt.launch.nodes import secret_of
        from reprogpt.launch.run_dir import RunDir, runs_root

        if node_rank() == 0:
            stop("this is node 0 by SKYPILOT_NODE_RANK, NODE_RANK or SLURM_NODEID; run dvc repro "
                 "here, and this command on the others", 2)
        # Node 0 alone decides how many nodes there are.
        runtime = load_params().runtime.model_copy(update={"nodes": 2})
        if arguments.address:
            runtime = runtime.model_copy(update={"rendezvous": arguments.address})

        def read() -> tuple[RunDir, Mapping[str, str]]:
            cfg = load_params()  # checkpoints, and the folder of runtime.resume, are node 0's
            own = cfg.runtime.model_copy(update={"resume": None, "checkpoint_store": None})
            return prepare(cfg.model_copy(update={"runtime": own}), PATHS,
                           Seal.take("train", DVC_FILE).sources)

        try:
            join(Rendezvous.of(runtime), secret_of(runs_root(ROOT)), read, arguments.wait)
        except (TrainingFailed, TimeoutError) as error:
            stop(str(error), 1)
    sys.exit(0)


if __name__ == "__main__":
    main()
