#!/usr/bin/env python3
"""Train an SPNet, or evaluate one (--eval-only).

Train, evaluating at the end and every TEST.EVAL_EPOCHS epochs:

    python tools/train_net.py --config-file projects_configs/NAME.yaml OUTPUT_DIR outputs/NAME

Continue an interrupted run as if it had not been interrupted: the same command with --resume.
Evaluate: --eval-only with MODEL.WEIGHTS FILE, or with --resume for the last checkpoint. Settings
follow at the end as KEY VALUE pairs; MODEL.SPNET.TEST_PATHWAY QC evaluates query by query. Without
a GPU everything runs on the CPU.
"""

from argparse import Namespace

import torch
from detectron2.engine import default_argument_parser, launch

from spnet_d2.config_checks import check_config
from spnet_d2.config_reader import ConfigError, read_config
from spnet_d2.engine import Checkpointer, Trainer, setup


def main(args: Namespace) -> dict | None:
    cfg = setup(args)
    if args.eval_only:
        covered = cfg.clone()
        covered.defrost()
        if cfg.MODEL.WEIGHTS or args.resume:
            # The checkpoint holds the trunk's weights, too: none have to be downloaded.
            covered.MODEL.SPNET.BACKBONE.PRETRAINED = ""
        model = Trainer.build_model(covered)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
        checkpointer.load_to_serve(
            cfg.MODEL.WEIGHTS, resume=args.resume, allow_untrained=args.allow_untrained
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run() -> None:
    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument(
        "--allow-untrained",
        action="store_true",
        help="evaluate even where the weights don't cover the whole model",
    )
    args = parser.parse_args()
    try:
        check_config(read_config(args.config_file, args.opts), training=not args.eval_only)
    except ConfigError as error:
        parser.error(str(error))
    if args.num_gpus > max(1, torch.cuda.device_count()):
        parser.error(f"--num-gpus {args.num_gpus}, but PyTorch finds {torch.cuda.device_count()}")
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


if __name__ == "__main__":
    run()
