"""A job of ``tools/train_net.py``, in each of its processes: train, or evaluate."""

from argparse import Namespace

from detectron2.config import CfgNode

from spnet_d2.engine.job_config import setup
from spnet_d2.engine.serve import serve
from spnet_d2.engine.trainer import Trainer


def main(args: Namespace, cfg: CfgNode | None = None) -> dict | None:
    """
    Train, or evaluate with ``args.eval_only``.

    Args:
        args: of ``detectron2.engine.default_argument_parser``, and ``allow_untrained``.
        cfg: that :func:`~spnet_d2.engine.job_config.check_job` went over; None: it is read here.

    Returns:
        The results of the evaluation; None, or nothing in it, on all but the main process.
    """
    cfg = setup(args, cfg)
    if args.eval_only:
        model = serve(cfg, resume=args.resume, allow_untrained=args.allow_untrained)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()
