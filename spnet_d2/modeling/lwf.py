"""Learning without forgetting (Li and Hoiem, TPAMI 2018) as a term of pre-training (Figure 7).

The network keeps classifying ImageNet as it did before: a classifier on the stride-32 map is held
to what a frozen copy of trunk and classifier says of the same images.

Shapes: ``N`` images, ``c5`` stride-32 channels, ``Y`` ImageNet classes.
"""

import copy
from collections import OrderedDict
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.pretrained import downloading, hub_url
from .backbone import PyramidBackbone, weight_options
from .precision import full_precision
from .whole_batch import Share


def lwf_loss(logits: Tensor, teacher: Tensor, temperature: float = 2.0) -> Share:
    """
    Distance of class logits from the teacher's, as the authors compute it.

    It is the logistic loss with ``log_softmax(logits / temperature)`` for logits and
    ``softmax(teacher / temperature)`` for targets, mean over images and classes. The paper
    cites the cross-entropy of the two softmaxes instead; the published runs used this. Images are
    the whole batch's: see :mod:`.whole_batch`.

    Args:
        logits, teacher: (N, Y).
        temperature: T.
    """
    with full_precision(logits):
        inputs = F.log_softmax(logits.float() / temperature, dim=1)
        targets = F.softmax(teacher.float() / temperature, dim=1)
        means = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none").mean(dim=1)
        return Share(means.sum(), torch.full((), len(means), device=means.device))


def imagenet_classifier(name: str, pretrained: str | dict[str, Tensor] = "hub") -> nn.Sequential:
    """
    What a timm model has behind its trunk: norms, pooling and the linear layer.

    Args:
        name: timm model name.
        pretrained: as in :func:`~.backbone.create_trunk`; a file must hold the classifier too.

    Returns:
        The stride-32 map, in the trunk's own layout -> (N, Y) logits.

    Raises:
        ValueError: the model or its weights have no classifier.
        PretrainedWeightsError: there are no such weights, and they can't be downloaded.
    """
    hint = "Turn MODEL.SPNET.LWF.ENABLED off or choose a backbone with an ImageNet classifier."
    if not timm.is_model(name):
        raise ValueError(f"{name!r} is no timm model, so it brings no classifier. {hint}")
    try:
        options = weight_options(name, pretrained)
        if options == {"pretrained": True}:
            with downloading("hub", name, hub_url(name)):
                model = timm.create_model(name, pretrained=True)
        else:
            model = timm.create_model(name, **options)
    except (RuntimeError, KeyError) as error:
        raise ValueError(
            f"Weights of {name!r} for learning without forgetting must include the classifier; "
            f"MODEL.SPNET.BACKBONE.PRETRAINED has none that fits. {hint} timm says: {error}"
        ) from error
    if not model.num_classes:
        raise ValueError(f"timm model {name!r} has no classes. {hint}")
    layers = dict(model.named_children())
    # The trunk ends with the last layer that timm lists as a feature.
    features: Any = model.feature_info
    end = features[-1]["module"].split(".")[0]
    behind = list(layers)[list(layers).index(end) + 1 :]
    return nn.Sequential(OrderedDict((key, layers[key]) for key in behind))


class LearningWithoutForgetting(nn.Module):
    """A trainable ImageNet classifier, and the frozen trunk and classifier it is held to."""

    def __init__(self, backbone: PyramidBackbone, classifier: nn.Module, temperature: float = 2.0):
        """
        Args:
            backbone: with its pretrained weights; its trunk is copied.
            classifier: of :func:`imagenet_classifier`; trained, and a copy is the teacher's.
            temperature: T.
        """
        super().__init__()
        self.temperature = temperature
        self.channels_last = backbone.channels_last
        self.classifier = classifier
        self.teacher = copy.deepcopy(backbone)
        del self.teacher.fpn
        self.teacher_classifier = copy.deepcopy(classifier)
        for module in (self.teacher, self.teacher_classifier):
            module.requires_grad_(False)

    def forward(self, images: Tensor, c5: Tensor) -> Share:
        """
        Args:
            images: (N, 3, H, W), normalised.
            c5: (N, c5, H/32, W/32) the student's stride-32 map of them.

        Returns:
            The loss, a scalar.
        """
        # Stochastic depth and batch statistics are on in the teacher too.
        with torch.no_grad():
            target = self._classify(self.teacher_classifier, self.teacher.trunk_maps(images)[-1])
        return lwf_loss(self._classify(self.classifier, c5), target, self.temperature)

    def _classify(self, classifier: nn.Module, c5: Tensor) -> Tensor:
        return classifier(c5.permute(0, 2, 3, 1) if self.channels_last else c5)
