"""Train an SPNet, or evaluate one (--eval-only).

Train, evaluating at the end and every TEST.EVAL_EPOCHS epochs:

    python tools/train_net.py --config-file projects_configs/NAME.yaml OUTPUT_DIR outputs/NAME

Continue an interrupted run as if it had not been interrupted: the same command with --resume.
Evaluate: --eval-only with MODEL.WEIGHTS FILE, or with --resume for the last checkpoint. Settings
follow at the end as KEY VALUE pairs; MODEL.SPNET.TEST_PATHWAY QC evaluates query by query. Without
a GPU everything runs on the CPU.

Several GPUs: --num-gpus 4, or torchrun --nproc-per-node 4 tools/train_net.py ...; several processes
on the CPU: the same with MODEL.DEVICE cpu. docs/multi_gpu.md has more.
"""

from functools import partial

# First: says what is missing, where exported models alone run.
from spnet_d2 import add_spnet_config  # noqa: F401

# isort: split
from detectron2.engine import default_argument_parser

from spnet_d2.config_reader import read_config
from spnet_d2.engine.job import main
from spnet_d2.engine.job_config import check_job
from spnet_d2.engine.launch import check_launch, count_processes, launch_job
from spnet_d2.errors import errors_in_one_line


def run(argv: list[str] | None = None) -> None:
    """Command line; ends the program with status 2 or 1 after an error that is the user's."""
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--allow-untrained",
        action="store_true",
        help="evaluate even where the weights don't cover the whole model",
    )
    args = parser.parse_args(argv)
    with errors_in_one_line("train_net", status=2):
        cfg = read_config(args.config_file, args.opts)
        check_launch(args, cfg.MODEL.DEVICE)
        check_job(cfg, not args.eval_only, count_processes(args))
    with errors_in_one_line("train_net"):
        launch_job(partial(main, cfg=cfg), args, cfg.MODEL.DEVICE)
