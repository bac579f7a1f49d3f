"""Detectron2's default trainer, with SPNet's data, optimiser, evaluation and an exact resume."""

import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import (
    DefaultTrainer,
    HookBase,
    TrainerBase,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from torch import nn, optim
from torch.utils.data import DataLoader

from spnet_d2.checkpoint.checkpointer import Checkpointer
from spnet_d2.checkpoint.pretrained import PretrainedWeightsError
from spnet_d2.config_reader import ConfigError
from spnet_d2.data.corrupt_images import SkipCounter
from spnet_d2.data.loaders import build_test_loader, build_train_loader, iterations_per_epoch
from spnet_d2.data.transforms import build_augmentation
from spnet_d2.engine import random_state
from spnet_d2.engine.bad_batches import BadBatchError
from spnet_d2.engine.distribute import distribute
from spnet_d2.engine.expected_results import verify_expected
from spnet_d2.engine.hooks import AverageBatchNorms, Backups, RandomState
from spnet_d2.engine.job_config import resolve_config
from spnet_d2.engine.optimizer import build_optimizer
from spnet_d2.engine.output_folder import (
    check_space,
    checkpoint_bytes,
    checkpoints_in,
    cut_metrics,
)
from spnet_d2.engine.step import build_step_trainer
from spnet_d2.engine.validation_loss import validation_losses
from spnet_d2.evaluation import (
    PersonSearchEvaluator,
    QueryCentricEvaluator,
    evaluate_query_centric,
)
from spnet_d2.evaluation.evaluator import choose_protocols
from spnet_d2.modeling.bridge_start import bridges_at_zero, fit_bridges
from spnet_d2.modeling.fingerprint import fingerprint, input_settings, model_settings
from spnet_d2.modeling.reid_losses import reid_loss_class
from spnet_d2.modeling.swap_path import needs_bridges
from spnet_d2.process import release_freed_memory
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import printable

logger = logging.getLogger(__name__)
# Of one pass over the training set, at most: an image matches a hundred anchors, and a bridge has D
# (D + 1) numbers.
_BRIDGE_BATCHES = 200


class TrainLoader:
    """Batches from ``start_iter`` on. It is built when iterated over: after a resume."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.start_iter = 0
        self.skips = SkipCounter()

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in build_train_loader(self.cfg, self.start_iter):
            self.skips.count(batch)
            yield batch


class Trainer(DefaultTrainer):
    """
    Trains what ``cfg`` describes. Use it as Detectron2's ``DefaultTrainer``::

        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()

    A ``cfg`` that :func:`spnet_d2.engine.setup` has not gone over is checked and completed in the
    same way. ``trainer.cfg`` is the result, which ``train`` writes to ``OUTPUT_DIR/config.yaml``.

    A run that is interrupted and resumed from a checkpoint continues as if it had not been: the
    checkpoint holds the model with its re-id memories, the optimiser, the schedule, the iteration
    and the random generators of all processes; the data are a function of seed and iteration. On
    the CPU the results are equal bit by bit (with ``SEED`` >= 0).
    """

    iter: int

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: left as it is.

        Raises:
            ConfigError: settings that can't work, unknown data sets.
            ValueError: settings that don't fit the data.
            FileNotFoundError: there is no such data.
        """
        _show_log()
        cfg = resolve_config(cfg)
        # What is not there is found now, not when training is over.
        self._test_sets = self._look_for_test_sets(cfg)
        # Not Detectron2's own, which can't share a model out to processes on CPUs.
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        # Its groups go by the model's names, before another module is put around it.
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = build_step_trainer(cfg, distribute(model, cfg), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.cfg, self.start_iter, self.max_iter = cfg, 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def _look_for_test_sets(self, cfg: CfgNode) -> tuple[str, ...]:
        """
        Those of ``DATASETS.TEST`` that training can be watched on.

        Pre-training goes on without one whose files are missing, which may be another corpus than
        it trains on; fine-tuning is for its test sets.
        """
        found = []
        for name in cfg.DATASETS.TEST:
            try:
                self.build_evaluator(cfg, name)
                found.append(name)
            except FileNotFoundError as error:
                if reid_loss_class(cfg).learns_known_people:
                    raise
                logger.warning("Training is not evaluated on %s. %s", name, error)
        return tuple(found)

    def _cfg_of_evaluation(self) -> CfgNode:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATASETS.TEST = self._test_sets
        return cfg

    def _evaluate(self) -> OrderedDict:
        self._last_eval_results = self.test(self._cfg_of_evaluation(), self.model)
        return self._last_eval_results

    def build_hooks(self) -> list[HookBase]:
        init = self.cfg.MODEL.SPNET.INIT
        self.checkpointer = Checkpointer(
            self._trainer.model,
            self.cfg.OUTPUT_DIR,
            cascade=init.CASCADE,
            trainer=weakref.proxy(self),
        )
        filtering = getattr(self.checkpointer.model, "gallery_filter", None)
        if filtering is not None and filtering.memory is not None:
            self.checkpointer.add_checkpointable("scene_memory", filtering.memory)
        result = [hook for hook in super().build_hooks() if hook is not None]
        result[_index_of(result, hooks.EvalHook)] = hooks.EvalHook(
            self.cfg.TEST.EVAL_PERIOD, self._evaluate
        )
        saves = [i for i, h in enumerate(result) if isinstance(h, hooks.PeriodicCheckpointer)]
        # Only the main process saves. The others take part right after what comes before saving.
        place = saves[0] if saves else _index_of(result, hooks.EvalHook)
        kept, backup = self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.SOLVER.BACKUP_PERIOD
        if saves and backup > 0:
            result.insert(place + 1, Backups(self.checkpointer, backup, kept))
        result.insert(place, RandomState(kept, backup))
        result.insert(place, AverageBatchNorms(kept, backup, self.cfg.TEST.EVAL_PERIOD))
        if self.cfg.TEST.LOSS and self._test_sets:
            losses = hooks.EvalHook(
                self.cfg.TEST.EVAL_PERIOD,
                lambda: validation_losses(self._cfg_of_evaluation(), self.model),
            )
            result.insert(_index_of(result, hooks.EvalHook), losses)
        return result

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's; TensorBoard's only where it can open a file of that name."""
        writers, folder = super().build_writers(), self.cfg.OUTPUT_DIR
        if printable(folder) == folder:
            return writers
        logger.warning("No TensorBoard events: OUTPUT_DIR is no UTF-8, which they need: %s", folder)
        return [writer for writer in writers if not isinstance(writer, TensorboardXWriter)]

    def resume_or_load(self, resume: bool = True) -> None:
        """
        Continue from the last checkpoint of ``OUTPUT_DIR``, or start anew from ``MODEL.WEIGHTS``.

        Args:
            resume: continue if there is a checkpoint.
        """
        folder, found = self.cfg.OUTPUT_DIR, checkpoints_in(self.cfg.OUTPUT_DIR)
        if resume and not self.checkpointer.has_checkpoint():
            logger.info("No checkpoint to continue from in %s: training starts anew.", folder)
        if found and not resume:
            logger.warning(
                "%s holds a run (%s), and training starts anew in it: checkpoints of the same "
                "names are overwritten, metrics.json is continued. Give each run an OUTPUT_DIR of "
                "its own.",
                folder,
                ", ".join(found),
            )
        resumed = resume and self.checkpointer.has_checkpoint()
        super().resume_or_load(resume=resume)
        if not resumed and self.cfg.MODEL.SPNET.INIT.BRIDGE == "least_squares":
            self._start_bridges()

    def _start_bridges(self) -> None:
        """Fit the bridges that ``MODEL.WEIGHTS`` lacks."""
        model = self.checkpointer.model
        if not needs_bridges(self.cfg) or not bridges_at_zero(model):
            logger.info("MODEL.SPNET.INIT.BRIDGE: no bridge is at zero, none is fitted.")
        elif not self.cfg.MODEL.WEIGHTS:
            logger.warning(
                "MODEL.SPNET.INIT.BRIDGE least_squares fits bridges to what query-centric "
                "pre-training taught, but MODEL.WEIGHTS is empty: they start at zero."
            )
        else:
            number = min(_BRIDGE_BATCHES, iterations_per_epoch(self.cfg))
            with random_state.preserved():
                counts = fit_bridges(model, islice(build_train_loader(self.cfg), number))
            logger.info(
                "Bridges start as the least-squares maps of matched boxes: %s.",
                ", ".join(f"stage {t} of {count} boxes" for t, count in counts.items()),
            )

    def train(self) -> OrderedDict | None:
        """
        Train from the current iteration to ``SOLVER.MAX_ITER``, then evaluate.

        Of a run that was finished and is resumed, only the evaluation is made again.

        Returns:
            The last evaluation's results; None on all but the main process.

        Raises:
            BadBatchError: a loss or the gradient became infinite or NaN, and
                ``SOLVER.ON_BAD_BATCH`` is not "skip", or many batches in a row were skipped.
            CorruptImageError: a training image can't be read.
            OSError: there is no room for checkpoints.
            ConfigError: ``TEST.EXPECTED_RESULTS`` names what was not evaluated; all else is done.
        """
        if self.start_iter >= self.max_iter:
            logger.info(
                "The run in %s is finished, all %d iterations are done: it is evaluated again. A "
                "larger SOLVER.EPOCHS or SOLVER.MAX_ITER would train on.",
                self.cfg.OUTPUT_DIR,
                self.max_iter,
            )
            return self._evaluate()
        loader = self._trainer.data_loader
        # A subclass may build another, which begins anew after a resume.
        if isinstance(loader, TrainLoader):
            loader.start_iter = self.start_iter
        if comm.is_main_process():
            self._prepare_folder()
        TrainerBase.train(self, self.start_iter, self.max_iter)
        if isinstance(loader, TrainLoader):
            loader.skips.report()
        self._trainer.bad_batches.report()
        results = getattr(self, "_last_eval_results", None)
        if results and comm.is_main_process():
            verify_expected(self.cfg, results)
        return results

    def _prepare_folder(self) -> None:
        folder, left = Path(self.cfg.OUTPUT_DIR), self.max_iter - self.start_iter
        if left > 0:
            solver = self.cfg.SOLVER
            count = left // solver.CHECKPOINT_PERIOD + 1
            if solver.BACKUP_PERIOD > 0:
                count += min(Backups.KEPT, left // solver.BACKUP_PERIOD)
            check_space(folder, checkpoint_bytes(self.checkpointer.model, self.optimizer), count)
        cut_metrics(folder / "metrics.json", self.start_iter or None)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", self.cfg.dump())

    def run_step(self) -> None:
        # A step that is left out has none.
        self.optimizer.grad_norm = None
        try:
            super().run_step()
        except BadBatchError as error:
            raise BadBatchError(self._explain(error, self._save_aside())) from error
        if self.optimizer.grad_norm is not None:
            self.storage.put_scalar("grad_norm", self.optimizer.grad_norm)

    def _save_aside(self) -> str:
        """Store the state before the iteration that failed, beside the checkpoints."""
        next(h for h in self._hooks if isinstance(h, RandomState)).act()
        name = f"bad_batch_{self.iter:07d}"
        # As a checkpoint at the end of the iteration before.
        self.iter = self._trainer.iter = self.iter - 1
        try:
            path = self.checkpointer.save_aside(name)
            if path is None:
                return "The main process says where the state before that batch is."
            return (
                f"The state before that batch is in {path}, which --resume leaves alone unless "
                "you write its name into last_checkpoint."
            )
        except OSError as error:
            return f"The state before that batch is lost. {error}"
        finally:
            self.iter = self._trainer.iter = self.iter + 1

    def _explain(self, error: BadBatchError, saved: str) -> str:
        last = self.checkpointer.get_checkpoint_file()
        rescue = (
            f"The last checkpoint, {last}, is from before that, too: continue from it with --resume"
            if last
            else "No checkpoint was written yet: start again"
        )
        return (
            f"Training stopped at iteration {self.iter}: {error}\n{saved}\n{rescue}, with a "
            "smaller SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, SOLVER.ON_BAD_BATCH skip or, if "
            "SOLVER.AMP.ENABLED, with SOLVER.AMP.PRECISION bfloat16 or without it."
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """
        The model to train, with its pretrained weights.

        ``MODEL.WEIGHTS``, which is loaded later, need not bring all of them. Where they can't be
        had, it has to: training stops before its first step if it doesn't.
        """
        alone = cfg.clone()
        alone.defrost()
        alone.MODEL.WEIGHTS = ""
        try:
            return super().build_model(alone)
        except PretrainedWeightsError as error:
            if not cfg.MODEL.WEIGHTS:
                raise
            logger.warning("All pretrained weights have to come from MODEL.WEIGHTS: %s", error)
            return super().build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: optim.Optimizer
    ) -> optim.lr_scheduler.LRScheduler:
        try:
            return super().build_lr_scheduler(cfg, optimizer)
        # How Detectron2 and fvcore refuse a setting, mostly without its name.
        except (AssertionError, ValueError, ZeroDivisionError) as error:
            solver = cfg.SOLVER
            keys = "LR_SCHEDULER_NAME BASE_LR BASE_LR_END STEPS NUM_DECAYS WARMUP_METHOD".split()
            settings = ", ".join(f"{key} {getattr(solver, key)}" for key in keys)
            raise ConfigError(
                f"No schedule of the learning rate can be made of SOLVER's {settings} ({error}). "
                "There are WarmupCosineLR (BASE_LR_END up to BASE_LR), WarmupMultiStepLR (rising "
                "STEPS) and WarmupStepWithFixedGammaLR, and the warm-ups linear and constant."
            ) from error

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return TrainLoader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        kind = QueryCentricEvaluator if _searches_by_query(cfg) else PersonSearchEvaluator
        # Evaluated by hand, a set need not be one of DATASETS.TEST.
        test_sets = tuple(dict.fromkeys([*cfg.DATASETS.TEST, dataset_name]))
        protocols = choose_protocols(dataset_name, cfg.TEST.PROTOCOLS, test_sets)
        return kind(dataset_name, protocols, folder, embedding_dtype=cfg.TEST.EMBEDDING_DTYPE)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators=None) -> OrderedDict:
        """
        Evaluate on every set of ``DATASETS.TEST``, leaving the random generators alone.

        With test pathway "QC", queries search their galleries one by one: two passes over a set.

        Returns:
            The evaluator's results; of several test sets, or none, an entry for each by name.
        """
        try:
            return cls._test(cfg, model, evaluators)
        finally:
            # Images of many sizes leave gaps in the heap that training has no use for.
            release_freed_memory()

    @classmethod
    def _test(cls, cfg: CfgNode, model: nn.Module, evaluators) -> OrderedDict:
        with random_state.preserved():
            if isinstance(evaluators, DatasetEvaluator):
                evaluators = [evaluators]
            if not evaluators:
                evaluators = [cls.build_evaluator(cfg, name) for name in cfg.DATASETS.TEST]
            _name_model(evaluators, cfg, model)
            if not _searches_by_query(cfg):
                return super().test(cfg, model, evaluators)
            results = OrderedDict()
            for evaluator, name in zip(evaluators, cfg.DATASETS.TEST, strict=True):
                loader = cls.build_test_loader(cfg, name)
                results[name] = evaluate_query_centric(model, loader, evaluator)
                if comm.is_main_process():
                    print_csv_format(results[name])
            return next(iter(results.values())) if len(results) == 1 else results


def _name_model(evaluators: list[DatasetEvaluator], cfg: CfgNode, model: nn.Module) -> None:
    """Let ``predictions.npz`` say which model it is of, as a predictor with this config does."""
    ours = [x for x in evaluators if isinstance(x, PersonSearchEvaluator)]
    if not (ours and comm.is_main_process()):
        return
    augmentation = build_augmentation(cfg, is_train=False)
    means = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    settings = input_settings(augmentation, cfg.INPUT.EXACT_8BIT, *means) | model_settings(cfg)
    name = fingerprint(getattr(model, "module", model), settings)
    for evaluator in ours:
        evaluator.made_by = name


def _show_log() -> None:
    """Without any set-up of the program's own, log to the terminal, as ``DefaultTrainer`` does."""
    for name in ("detectron2", "spnet_d2"):
        if not logging.getLogger(name).isEnabledFor(logging.INFO):
            setup_logger(name=name)


def _searches_by_query(cfg: CfgNode) -> bool:
    return (cfg.MODEL.SPNET.TEST_PATHWAY or cfg.MODEL.SPNET.PATHWAY) == "QC"


def _index_of(items: list[HookBase], kind: type) -> int:
    return next(i for i, item in enumerate(items) if isinstance(item, kind))
