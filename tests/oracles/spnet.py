"""SPNet a second time: slow, and on the authors' tensors by the authors' names.

Written from the description of their model, apart from the package: loops over images, pairs and
boxes, labels -1 (background) and -2 (ignored) as theirs, random subsets "the first n". Only the
trunk is given (torchvision's, as a function), and RoIAlign is torchvision's.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

IGNORED, BACKGROUND = -2, -1


@dataclass
class Settings:
    """What the authors' configs say."""

    train_mode: str = "oc"
    cascades: int = 0
    separate: bool = False
    objective: str = "oim"
    moco: bool = False
    scalar: float = 30.0
    anchors_per_image: int = 128
    anchors_per_pair: int = 64
    max_pairs: int = 32
    match_mode: str = "algo1"
    conservative: bool = False
    anchor_logits: str = "norm"
    cls_logits: str = "norm"
    posnorm: bool = False
    reid_gt_only: bool = False
    pre_topk: int = 1000
    search_topk: int = 100


@dataclass
class Record:
    """What one round trains on."""

    boxes: Tensor
    deltas: Tensor
    logits: Tensor
    labels: Tensor
    targets: Tensor
    ids: Tensor
    image: list[int]
    pair: list[int] = field(default_factory=list)


def area(b):
    return (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])


def intersection(a, b):
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(a, b):
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared)


def giou(a, b):
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(-1)
    union = area(a) + area(b) - intersection(a, b)
    return intersection(a, b) / union - (hull - union) / hull


def anchors_of(padded, levels):
    boxes = []
    for base, level in zip((32, 64, 128, 256, 512), levels, strict=True):
        height, width = level.shape[-2:]
        step_y, step_x = padded[0] // height, padded[1] // width
        cell = []
        for ratio in (0.5, 1.0, 2.0):
            for third in range(3):
                size = int(base * 2 ** (third / 3))
                w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                cell.append([round(-w / 2), round(-h / 2), round(w / 2), round(h / 2)])
        cell = torch.tensor(cell, dtype=torch.get_default_dtype())
        for y in range(height):
            for x in range(width):
                at = [x * step_x, y * step_y]
                boxes.append(cell + torch.tensor(at + at, dtype=torch.get_default_dtype()))
    return torch.cat(boxes)


def decode(deltas, boxes):
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x = boxes[:, 0] + w / 2 + deltas[:, 0] * w
    y = boxes[:, 1] + h / 2 + deltas[:, 1] * h
    limit = math.log(1000 / 16)
    w, h = deltas[:, 2].clamp(max=limit).exp() * w, deltas[:, 3].clamp(max=limit).exp() * h
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


def clip(boxes, size):
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.get_default_dtype())
    return torch.minimum(boxes.clamp(min=0), limit)


def match(ious, high, low, low_quality):
    """(G, M) -> ground truth of each box, BACKGROUND or IGNORED."""
    if len(ious) == 0:
        return torch.full((ious.shape[1],), BACKGROUND)
    best, index = ious.max(0)
    labels = index.clone()
    labels[best < low] = BACKGROUND
    labels[(best >= low) & (best < high)] = IGNORED
    if low_quality:
        for row in ious:
            ties = row == row.max()
            labels[ties] = index[ties]
    return labels


def suppress(boxes, scores, threshold=0.5):
    """Indices kept by NMS, best score first."""
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        # Boxes clipped to nothing overlap with nothing (0 / 0), as in torchvision's NMS.
        if not any(iou(boxes[i], boxes[j]) > threshold for j in kept):
            kept.append(i)
    return kept


def first(mask, count):
    return mask.nonzero()[:, 0][:count]


class SlowSPNet:
    """
    The authors' model on a state dict of theirs (names without ``model.``).

    ``trunk.maps(x, prefix)`` gives C3, C4 and C5 of images by the tensors below ``prefix``;
    ``trunk.stage(rois, prefix)`` the two vectors of RoI features. Training changes buffers of
    ``state``.
    """

    def __init__(self, state, trunk, settings, training):
        self.state, self.trunk = state, trunk
        self.options, self.training = settings, training

    def linear(self, name, x):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def conv(self, name, x, **how):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def mlp(self, name, x):
        for k in (0, 2, 4, 6):
            x = self.linear(f"{name}.{k}", x).relu()
        return x

    def batch_norm(self, name, x):
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training and len(x) >= 2:
            batch_mean, batch_var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                used_mean, used_var = mean.clone(), var.clone()
                mean.copy_(0.9 * used_mean + 0.1 * batch_mean)
                var.copy_(0.9 * used_var + 0.1 * x.var(0))
            mean, var = batch_mean, batch_var
        x = (x - mean) / (var + 1e-5).sqrt()
        if f"{name}.weight" in self.state:
            x = x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]
        return x

    def pyramid(self, x, prefix=""):
        maps = self.trunk.maps(x, f"{prefix}backbone.")
        fpn = f"{prefix}backbone.fpn"
        sums = [self.conv(f"{fpn}.inner_blocks.2.0", maps[2])]
        for i in (1, 0):
            lateral = self.conv(f"{fpn}.inner_blocks.{i}.0", maps[i])
            sums.insert(0, lateral + F.interpolate(sums[0], size=lateral.shape[-2:]))
        levels = [self.conv(f"{fpn}.layer_blocks.{i}.0", s, padding=1) for i, s in enumerate(sums)]
        p6 = self.conv(f"{fpn}.extra_blocks.p6", maps[2], stride=2, padding=1)
        p7 = self.conv(f"{fpn}.extra_blocks.p7", p6.relu(), stride=2, padding=1)
        return [*levels, p6, p7]

    def anchor_embeddings(self, levels):
        rows = []
        for level in levels:
            x = self.conv("head.feature_head.emb_pred", level, padding=1)
            n, channels, height, width = x.shape
            x = x.reshape(n, 9, channels // 9, height, width).permute(0, 3, 4, 1, 2)
            rows.append(x.reshape(n, height * width * 9, channels // 9))
        return torch.cat(rows, 1)

    def rois(self, p3, boxes):
        return roi_align(p3, boxes, 14, 1 / 8, 2, False)

    def reid(self, p3, boxes, head="align_emb_head"):
        parts = self.trunk.stage(self.rois(p3, boxes), f"head.{head}.emb_head.")
        out = []
        for level, x in zip((4, 5), parts, strict=True):
            name = f"head.{head}.nae_head.projectors.feat_res{level}"
            out.append(self.batch_norm(f"{name}.1", self.linear(f"{name}.0", x)))
        return torch.cat(out, 1)

    def loc(self, t, p3, boxes):
        """Localisation embeddings of what round ``t`` refines."""
        if not self.options.separate:
            return self.reid(p3, boxes)
        head = f"head.align_emb_loc_head.{t}"
        return self.linear(
            f"{head}.head", self.trunk.stage(self.rois(p3, boxes), f"{head}.emb_head.")[1]
        )

    def bridge(self, t, x_a):
        x = self.linear(f"head.bridge_layer.{t}.linear", x_a)
        return x - x_a

    def logits_of_norm(self, w, dim, kind, name):
        if kind == "norm":
            mu = math.sqrt(2) * math.gamma((dim + 1) / 2) / math.gamma(dim / 2)
            z = -(w - mu) / math.sqrt(dim - mu**2)
        elif kind == "batchnorm":
            z = -self.batch_norm(name, w.reshape(-1, 1)).reshape(w.shape)
        else:
            z = -w
        return -z if self.options.posnorm else z

    def class_logits(self, t, offsets):
        kind = self.options.cls_logits
        if kind == "mlp":
            offsets, kind = self.mlp(f"head.classification_head.{t}.tfm", offsets), "norm"
        name = f"head.classification_head.{t}.head.norm"
        return self.logits_of_norm(offsets.norm(dim=-1), offsets.shape[-1], kind, name)

    def regress(self, t, offsets):
        name = f"head.regression_head.{t}"
        return self.linear(f"{name}.head", self.mlp(f"{name}.tfm", offsets))

    def anchor_logits(self, w, dim):
        name = "head.anchor_classification_head.logits.norm"
        return self.logits_of_norm(w, dim, self.options.anchor_logits, name)

    # Training

    def losses(self, images, targets):
        """
        Images (3, H_i, W_i) normalised; targets with ``boxes``, ``person_id`` and ``label``
        (row of the look-up table or its length).
        """
        o = self.options
        height = -(-max(x.shape[1] for x in images) // 32) * 32
        width = -(-max(x.shape[2] for x in images) // 32) * 32
        batch = torch.zeros(len(images), 3, height, width)
        for row, x in zip(batch, images):
            row[:, : x.shape[1], : x.shape[2]] = x
        sizes = [tuple(x.shape[1:]) for x in images]
        levels = self.pyramid(batch)
        p3, x_a = levels[0], self.anchor_embeddings(levels)
        anchors = anchors_of((height, width), levels)
        boxes = [t["boxes"] for t in targets]
        gt = {"reid": self.reid(p3, boxes)}
        gt["loc"] = gt["reid"] if not o.separate else self.loc(1, p3, boxes)
        if o.moco:
            with torch.no_grad():
                teacher_p3 = self.pyramid(batch, "moco_")[0]
                gt["teacher"] = self.reid(teacher_p3, boxes, "moco_align_emb_head")
        ids = [t["label" if o.objective == "oim" else "person_id"] for t in targets]
        if o.train_mode == "qc":
            keep = []
            for t in targets:
                people = t["person_id"].tolist()
                keep.append(torch.tensor([people.count(p) == 1 for p in people], dtype=torch.bool))
            gt = {k: v[torch.cat(keep)] for k, v in gt.items()}
            boxes = [b[k] for b, k in zip(boxes, keep)]
            ids = [x[k] for x, k in zip(ids, keep)]
            people = [t["person_id"][k] for t, k in zip(targets, keep)]
            losses, record, queries = self.first_qc(anchors, x_a, boxes, ids, people, gt["loc"])
        else:
            losses, record = self.first_oc(anchors, x_a, boxes, ids)
        for t in range(1, o.cascades + 1):
            if o.train_mode == "qc":
                record = self.again_qc(t, p3, record, sizes, queries)
            else:
                record = self.again_oc(t, p3, record, sizes, boxes, ids)
            positive = record.labels >= 0
            valid = record.labels != IGNORED
            bce = F.binary_cross_entropy_with_logits(
                record.logits[valid], positive[valid].float(), reduction="sum"
            )
            losses[f"loss_cls_{t}"] = bce / max(1, int(positive.sum()))
            losses[f"loss_box_{t}"] = self.box_loss(record)
        rows, labels = [gt["reid"]], [torch.cat(ids)]
        taught = [gt.get("teacher")]
        if not o.reid_gt_only:
            chosen, of_image, box_ids = self.reid_boxes(record, sizes)
            rows.insert(0, self.reid(p3, self.by_image(chosen, of_image, len(images))))
            labels.insert(0, box_ids)
            if o.moco:
                with torch.no_grad():
                    boxes = self.by_image(chosen, of_image, len(images))
                    taught.insert(0, self.reid(teacher_p3, boxes, "moco_align_emb_head"))
        teacher = torch.cat(taught) if o.moco else None
        memory = self.oim if o.objective == "oim" else self.cq
        losses["loss_reid"] = memory(torch.cat(rows), torch.cat(labels), teacher)
        return losses

    @staticmethod
    def by_image(boxes, of_image, count):
        index = torch.tensor(of_image, dtype=torch.int64)
        return [boxes[index == i] for i in range(count)]

    def anchor_loss(self, logits, labels):
        total, positives = 0.0, 0
        for z, label in zip(logits, labels):
            valid = label != IGNORED
            z, y = z[valid], (label[valid] >= 0).float()
            p = z.sigmoid()
            p_t = p * y + (1 - p) * (1 - y)
            bce = F.binary_cross_entropy_with_logits(z, y, reduction="none")
            total = total + (0.5 * (1 - p_t) * bce).sum()
            positives += int(y.sum())
        return total / max(1, positives)

    def box_loss(self, record):
        positive = record.labels >= 0
        found = decode(record.deltas[positive], record.boxes[positive])
        target = record.targets[positive]
        if len(found) == 0:
            return record.deltas.sum() * 0
        return (1 - giou(found, target)).mean()

    def sample(self, labels, count):
        positive = first(labels >= 0, count // 2)
        negative = first(labels == BACKGROUND, count - len(positive))
        return torch.cat([positive, negative]).sort().values

    @staticmethod
    def target_of(labels, boxes, ids):
        if len(boxes) == 0:
            return torch.zeros(len(labels), 4), torch.zeros(len(labels), dtype=torch.int64)
        index = labels.clamp(min=0)
        return boxes[index], ids[index]

    def first_oc(self, anchors, x_a, boxes, ids):
        o = self.options
        labels = [match(iou(b[:, None], anchors[None]), 0.5, 0.4, True) for b in boxes]
        offsets = self.bridge(0, x_a)
        logits = self.anchor_logits(offsets.norm(dim=-1), offsets.shape[-1])
        parts = []
        for i, label in enumerate(labels):
            chosen = self.sample(label, o.anchors_per_image)
            target, target_ids = self.target_of(label[chosen], boxes[i], ids[i])
            parts.append(
                (offsets[i][chosen], anchors[chosen], label[chosen], target, target_ids, chosen)
            )
        image = [i for i, part in enumerate(parts) for _ in part[5]]
        sampled, at, label, target, target_ids, _ = (torch.cat(x) for x in zip(*parts))
        record = self.record(0, sampled, at, label, target, target_ids, image)
        losses = {"loss_anchor": self.anchor_loss(logits, labels)}
        return losses | {"loss_box_0": self.box_loss(record)}, record

    def record(self, t, offsets, boxes, labels, targets, ids, image, pair=()):
        deltas, logits = self.regress(t, offsets), self.class_logits(t, offsets)
        return Record(boxes, deltas, logits, labels, targets, ids, image, list(pair))

    def refined(self, record, sizes):
        boxes = decode(record.deltas, record.boxes).detach()
        return torch.stack([clip(b, sizes[i]) for b, i in zip(boxes, record.image)])

    def again_oc(self, t, p3, record, sizes, boxes, ids):
        refined = self.by_image(self.refined(record, sizes), record.image, len(sizes))
        parts = []
        for i, found in enumerate(refined):
            found = torch.cat([found, boxes[i]])
            label = match(iou(boxes[i][:, None], found[None]), 0.5, 0.5, False)
            chosen = self.sample(label, self.options.anchors_per_image)
            parts.append(
                (found[chosen], label[chosen], *self.target_of(label[chosen], boxes[i], ids[i]))
            )
        image = [i for i, part in enumerate(parts) for _ in part[0]]
        x_a = self.loc(t, p3, [part[0] for part in parts])
        found, label, target, target_ids = (torch.cat(x) for x in zip(*parts))
        return self.record(t, self.bridge(t, x_a), found, label, target, target_ids, image)

    def first_qc(self, anchors, x_a, boxes, ids, people, loc):
        o = self.options
        queries = [(i, int(p)) for i, of_image in enumerate(people) for p in of_image]
        pairs = self.pairs(queries, people)
        anchor_logits, labels, parts, image, pair_of = [], [], [], [], []
        norms = torch.stack([(loc[q] - x_a[i]).norm(dim=-1) for i, q in pairs])
        logits = self.anchor_logits(norms, loc.shape[1])
        for k, (i, q) in enumerate(pairs):
            own = (people[i] == queries[q][1]).nonzero()[:, 0].tolist()
            everyone = match(iou(boxes[i][:, None], anchors[None]), 0.5, 0.4, True)
            box, target_id, near = torch.zeros(4), torch.tensor(0), torch.zeros(len(anchors))
            label = torch.full((len(anchors),), BACKGROUND)
            if own:
                box, target_id = boxes[i][own[0]], ids[i][own[0]]
                near = giou(box[None], anchors)
                label = match(iou(box[None], anchors)[None], 0.5, 0.4, True)
            if o.conservative:
                label[(everyone >= 0) & (label < 0)] = IGNORED
            chosen = self.anchors_of_pair(norms[k], near, bool(own))
            anchor_logits.append(logits[k])
            labels.append(label)
            count = len(chosen)
            parts.append(
                (
                    loc[q] - x_a[i][chosen],
                    anchors[chosen],
                    label[chosen],
                    box.expand(count, 4),
                    target_id.expand(count),
                )
            )
            image += [i] * count
            pair_of += [k] * count
        columns = [torch.cat(x) for x in zip(*parts)]
        record = self.record(0, *columns, image, pair_of)
        losses = {"loss_anchor": self.anchor_loss(anchor_logits, labels)}
        query = torch.stack([loc[q] for _, q in pairs])
        return losses | {"loss_box_0": self.box_loss(record)}, record, query

    def pairs(self, queries, people):
        o, kinds = self.options, {"other": [], "self": [], "neg": []}
        every = [(i, q) for i in range(len(people)) for q in range(len(queries))]
        for i, q in every:
            source, person = queries[q]
            if source == i:
                kinds["self"].append((i, q))
            elif person in people[i].tolist():
                kinds["other"].append((i, q))
            else:
                kinds["neg"].append((i, q))
        if o.match_mode == "all":
            return sorted(kinds["self"] + kinds["other"])[: o.max_pairs]
        wanted = {"algo1": ("other", "self", "neg"), "algo2": ("other", "self")}
        chosen = []
        for kind in wanted.get(o.match_mode, (o.match_mode,)):
            chosen += kinds[kind][: o.max_pairs - len(chosen)]
        return sorted(chosen)

    def anchors_of_pair(self, norms, near, positive):
        count = self.options.anchors_per_pair
        top = near.topk(count).indices
        if self.options.match_mode != "algo1":
            return top
        small = norms.topk(count, largest=self.options.posnorm).indices
        if not positive:
            return small
        top = top[: count // 2].tolist()
        rest = sorted(set(small.tolist()) - set(top))[: count // 2]
        return torch.tensor(top + rest)

    def again_qc(self, t, p3, record, sizes, queries):
        refined = self.refined(record, sizes)
        pair_of = torch.tensor(record.pair)
        boxes, labels, targets, ids, image, pair = [], [], [], [], [], []
        for k in range(len(queries)):
            rows = (pair_of == k).nonzero()[:, 0]
            target = record.targets[rows[0]]
            found = torch.cat([refined[rows], target[None]])
            close = iou(found, target[None]) >= 0.5
            boxes.append(found)
            labels.append(torch.where(close, 0, BACKGROUND))
            targets.append(target.expand(len(found), 4))
            ids.append(record.ids[rows].max().expand(len(found)))
            image += [record.image[rows[0]]] * len(found)
            pair += [k] * len(found)
        boxes, labels, targets, ids = (torch.cat(x) for x in (boxes, labels, targets, ids))
        x_a = self.loc(t, p3, self.by_image(boxes, image, len(sizes)))
        offsets = queries[torch.tensor(pair)] - x_a
        return self.record(t, offsets, boxes, labels, targets, ids, image, pair)

    def reid_boxes(self, record, sizes):
        boxes, kept, per_pair = self.refined(record, sizes), [], {}
        for k, (box, target) in enumerate(zip(boxes, record.targets)):
            if iou(box, target) >= 0.7:
                if record.pair:
                    pair = record.pair[k]
                    per_pair[pair] = per_pair.get(pair, 0) + 1
                    if per_pair[pair] > self.options.anchors_per_pair // 4:
                        continue
                kept.append(k)
        return boxes[kept], [record.image[k] for k in kept], record.ids[kept]

    def oim(self, x, labels, _):
        lut, cq = self.state["head.reid_loss.lut"], self.state["head.reid_loss.cq"]
        x = F.normalize(x)
        similarity = x @ torch.cat([lut, cq]).T
        total = x.sum() * 0
        empty = (torch.cat([lut, cq]) == 0).all(1)
        for row, label in zip(similarity, labels.tolist()):
            if label < len(lut):
                row = torch.where(empty, -1.0, row)
                if empty[label]:
                    row = torch.where(torch.arange(len(row)) == label, 1.0, row)
                total = total - (self.options.scalar * row).log_softmax(0)[label]
        head = 0
        new_lut, new_cq = lut.clone(), cq.clone()
        with torch.no_grad():
            for row, label in zip(x, labels.tolist()):
                if label < len(lut):
                    new_lut[label] = F.normalize(0.5 * new_lut[label] + 0.5 * row, dim=0)
                else:
                    new_cq[head % len(cq)] = row
                    head += 1
        self.state["head.reid_loss.lut"], self.state["head.reid_loss.cq"] = new_lut, new_cq
        return total / max(1, len(x))

    def cq(self, x, labels, teacher):
        """With the queue still empty."""
        teacher = x.detach() if teacher is None else teacher
        people = sorted(set(labels.tolist()))
        rows = torch.stack([F.normalize(teacher[labels == p].mean(0), dim=0) for p in people])
        logits = self.options.scalar * F.normalize(x) @ rows.T
        return F.cross_entropy(logits, torch.tensor([people.index(p) for p in labels.tolist()]))

    # Inference, one image at a time

    def encode(self, image):
        height, width = (-(-s // 32) * 32 for s in image.shape[1:])
        batch = torch.zeros(1, 3, height, width)
        batch[0, :, : image.shape[1], : image.shape[2]] = image
        levels = self.pyramid(batch)
        return levels[0], self.anchor_embeddings(levels)[0], anchors_of((height, width), levels)

    def embed(self, image, boxes):
        """Re-id and localisation embeddings of given boxes."""
        p3 = self.encode(image)[0]
        reid = self.reid(p3, [boxes])
        return reid, self.loc(1, p3, [boxes]) if self.options.separate else reid

    def detect(self, image):
        """Boxes, scores and re-id embeddings of an image."""
        p3, x_a, anchors = self.encode(image)
        offsets = self.bridge(0, x_a)
        w = offsets.norm(dim=-1)
        count = min(self.options.pre_topk, len(w))
        near = w.topk(count, largest=self.options.posnorm).indices
        scores = self.class_logits(0, offsets[near]).sigmoid()
        passed = (scores > 0.5).nonzero()[:, 0]
        passed = passed[scores[passed].topk(min(300, len(passed))).indices]
        boxes = decode(self.regress(0, offsets[near[passed]]), anchors[near[passed]])
        boxes = clip(boxes, image.shape[1:])
        kept = suppress(boxes, scores[passed])[:300]
        return self.refine(p3, boxes[kept], scores[passed][kept], image.shape[1:], None)

    def search(self, image, queries):
        """The same for every query (Q, D)."""
        p3, x_a, anchors = self.encode(image)
        results = []
        for x_q in queries:
            w = (x_q - x_a).norm(dim=-1)
            count = min(self.options.search_topk, len(w))
            near = w.topk(count, largest=self.options.posnorm).indices
            offsets = x_q - x_a[near]
            scores = self.class_logits(0, offsets).sigmoid()
            passed = (scores > 0.5).nonzero()[:, 0]
            boxes = decode(self.regress(0, offsets[passed]), anchors[near[passed]])
            boxes = clip(boxes, image.shape[1:])
            kept = sorted(suppress(boxes, scores[passed]))
            asked = x_q if self.options.train_mode == "qc" else None
            found = boxes[kept], scores[passed][kept]
            results.append(self.refine(p3, *found, image.shape[1:], asked))
        return results

    def refine(self, p3, boxes, scores, size, x_q):
        if len(boxes):
            for t in range(1, self.options.cascades + 1):
                x_a = self.loc(t, p3, [boxes])
                offsets = self.bridge(t, x_a) if x_q is None else x_q - x_a
                boxes = clip(decode(self.regress(t, offsets), boxes), size)
                z = self.class_logits(t, offsets)
                kept = suppress(boxes, z)
                boxes, scores = boxes[kept], z[kept].sigmoid()
        return boxes, scores, self.reid(p3, [boxes]) if len(boxes) else None
