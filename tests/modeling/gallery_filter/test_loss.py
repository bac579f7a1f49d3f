"""Pairs, memory, fuser and loss: numbers of the authors' code on embeddings by formula."""

import pytest
import torch

from spnet_d2.modeling.gallery_filter.fuser import Fuser
from spnet_d2.modeling.gallery_filter.loss import contrastive_loss
from spnet_d2.modeling.gallery_filter.memory import SceneMemory
from spnet_d2.modeling.gallery_filter.network import GalleryFilter
from spnet_d2.modeling.gallery_filter.scenes import Pairs, Scene
from spnet_d2.testing import deterministic_sampling

DIM = 6
# Image -> person ids; those from 100 on are unknown.
PEOPLE = {10: (1, 2, 101), 11: (1, 3), 12: (2, 102), 16: (3, 5), 13: (1, 3), 14: (4, 103)}


def query_vectors(*numbers):
    k, d = torch.tensor(numbers, dtype=torch.float64)[:, None], torch.arange(DIM)
    return torch.sin(1 + 0.7 * k + 1.3 * d).float()


def scene_vector(image):
    return torch.cos(0.5 + 0.9 * image + 1.1 * torch.arange(DIM, dtype=torch.float64)).float()


def scenes_of(*images):
    """Scenes whose boxes are numbered through all images."""
    first, found = 0, {}
    for image, people in PEOPLE.items():
        ids = torch.tensor(people)
        vectors = query_vectors(*range(first, first + len(people))).requires_grad_()
        rows = torch.where(ids < 100, ids - 1, -1)
        found[image] = Scene(image, scene_vector(image).requires_grad_(), vectors, ids, rows)
        first += len(people)
    return [found[image] for image in images]


def gallery_filter(**options):
    torch.manual_seed(0)
    embedder = torch.nn.Linear(1, 1)
    embedder.dim = DIM
    module = GalleryFilter(embedder, **options)
    if isinstance(module.fuser, Fuser):
        with torch.no_grad():
            module.fuser.weight.copy_(1 + 0.1 * torch.arange(DIM))
            module.fuser.bias.copy_(0.05 * torch.arange(DIM))
    return module


def two_steps(module, table=None):
    """Losses of two batches, as training takes them."""
    losses = []
    with deterministic_sampling():
        for images in ((10, 11, 12, 16), (13, 14)):
            batch = scenes_of(*images)
            losses.append(
                module.losses(
                    torch.stack([s.embedding for s in batch]),
                    torch.cat([s.queries for s in batch]),
                    [s.image_id for s in batch],
                    [s.people for s in batch],
                    [s.rows for s in batch],
                    table,
                )["loss_gfn"]
            )
    return losses


@pytest.mark.parametrize("options, expected", [
    ({}, (2.149379, 3.963963)),
    ({"filter_negatives": False}, (2.149731, 3.964109)),
    ({"memory": False}, (2.149379, 0.000262)),
    ({"mode": "separate"}, (10.114911, 8.837031)),
    ({"mode": "separate", "filter_negatives": False}, (10.151125, 8.837085)),
    ({"mode": "image"}, (3.342733, 5.332925)),
    ({"activation": "sum"}, (1.456065, 2.454534)),
    ({"activation": "identity"}, (2.357736, 4.717152)),
    ({"loss_weight": 2.0}, (4.298758, 7.927926)),
], ids=str)  # fmt: skip
def test_two_steps(options, expected):
    losses = [loss.item() for loss in two_steps(gallery_filter(**options))]
    assert losses == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_running_statistics_and_gradients():
    module = gallery_filter()
    _, loss = two_steps(module)
    assert float(module.fuser.running_mean.sum()) == pytest.approx(-0.00775374, abs=1e-6)
    assert float(module.fuser.running_var.sum()) == pytest.approx(4.9284487, abs=1e-5)
    loss.backward()
    assert float(module.fuser.weight.grad.norm()) == pytest.approx(1.127389, rel=1e-4)
    assert int(module.step) == 2


def table():
    rows = torch.zeros(5, DIM)
    r, d = torch.tensor([[0.0], [2.0]], dtype=torch.float64), torch.arange(DIM)
    filled = torch.sin(2 + r + 0.4 * d)
    rows[[0, 2]] = (filled / filled.norm(dim=1, keepdim=True)).float()
    return rows


def test_table_rows_as_queries_leave_out_those_not_filled():
    """As the authors' code with the rows it means to skip: 1 and 3 alone are queries."""
    loss = two_steps(gallery_filter(queries="oim"), table())[0]
    scenes = scenes_of(10, 11, 12, 16)
    by_hand = gallery_filter()
    pairs = Pairs.of(scenes)
    rows = torch.cat([s.rows for s in scenes])
    chosen = ((rows == 0) | (rows == 2)).nonzero()[:, 0]
    assert chosen.tolist() == [0, 3, 4, 7]
    pairs = pairs.of_queries(chosen)
    y = torch.stack([s.embedding for s in scenes])
    cosines = by_hand.fuser(table()[rows[chosen]], y, pairs.own)
    expected = contrastive_loss(cosines, pairs.positive, pairs.negative)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_queries_of_zeros_give_the_authors_numbers_of_oim():
    """Their code takes rows that are not filled; here their values are given as embeddings."""
    for mode, expected in (("combined", 3.072045), ("separate", 2.581157)):
        module, scenes = gallery_filter(mode=mode), scenes_of(10, 11, 12, 16)
        pairs, rows = Pairs.of(scenes), torch.cat([s.rows for s in scenes])
        known = (rows >= 0).nonzero()[:, 0]
        pairs, x = pairs.of_queries(known), table()[rows[known]]
        y = torch.stack([s.embedding for s in scenes])
        if mode == "combined":
            loss = contrastive_loss(module.fuser(x, y, pairs.own), pairs.positive, pairs.negative)
            assert (int(pairs.positive.sum()), int(pairs.negative.sum())) == (13, 15)
        else:
            cosines = torch.nn.functional.normalize(y) @ x.T
            loss = contrastive_loss(cosines, pairs.positive.T, pairs.negative.T)
        assert float(loss) == pytest.approx(expected, rel=2e-5)


def test_masks_of_the_second_step():
    scenes = scenes_of(13, 14, 10, 16, 11)
    pairs = Pairs.of(scenes)
    images = [s.image_id for s in scenes]
    people = torch.cat([s.people for s in scenes]).tolist()
    names = [(images[i], p) for i, p in zip(pairs.own.tolist(), people)]

    def of(mask, query):
        return {images[i] for i in mask[names.index(query)].nonzero()[:, 0].tolist()}

    assert (of(pairs.positive, (13, 1)), of(pairs.negative, (13, 1))) == ({13, 10, 11}, {14, 16})
    assert of(pairs.positive, (14, 103)) == {14}
    assert of(pairs.negative, (14, 103)) == {13, 10, 16, 11}
    # 13 and 11 share person 1 with the unknown person's scene.
    assert of(pairs.negative, (10, 101)) == {14, 16}
    assert (int(pairs.positive.sum()), int(pairs.negative.sum())) == (23, 30)


def test_memory_gives_a_positive_then_a_hard_negative_of_each_person():
    memory, generator = SceneMemory(), torch.Generator()
    memory.store(scenes_of(10, 11, 12, 16))
    with deterministic_sampling():
        sampled = memory.sample(scenes_of(13, 14), generator)
    assert [s.image_id for s in sampled] == [10, 16, 11]
    assert not any(s.embedding.requires_grad or s.queries.requires_grad for s in sampled)
    # Random ones: none twice, and none of the batch.
    for seed in range(20):
        ids = [s.image_id for s in memory.sample(scenes_of(13, 11), generator.manual_seed(seed))]
        assert len(set(ids)) == len(ids) and 11 not in ids


def test_memory_replaces_an_image_with_its_people():
    memory, (scene,) = SceneMemory(), scenes_of(10)
    memory.store([scene])
    fewer = Scene(10, scene.embedding, scene.queries[1:], scene.people[1:], scene.rows[1:])
    memory.store(
        [
            fewer,
            Scene(99, scene.embedding, *(x[:0] for x in (scene.queries, scene.people, scene.rows))),
        ]
    )
    assert len(memory) == 1
    with deterministic_sampling():
        # Person 1 is no longer there, and nobody else of image 11.
        assert memory.sample(scenes_of(11), torch.Generator()) == []
        assert len(memory.sample(scenes_of(12), torch.Generator())) == 1


def test_a_memory_that_is_loaded_again_gives_the_same_samples():
    memory, again = SceneMemory(), SceneMemory()
    again.load_state_dict(memory.state_dict())
    assert len(again) == 0
    memory.store(scenes_of(10, 11, 12, 16))
    again.store(scenes_of(14))
    again.load_state_dict(memory.state_dict())
    for seed in range(3):
        found, expected = (
            m.sample(scenes_of(13, 14), torch.Generator().manual_seed(seed))
            for m in (again, memory)
        )
        assert [s.image_id for s in found] == [s.image_id for s in expected]
        for one, other in zip(found, expected, strict=True):
            for name in ("embedding", "queries", "people", "rows"):
                assert torch.equal(getattr(one, name), getattr(other, name))


def test_embeddings_that_are_not_finite_are_not_kept():
    memory, (first, second) = SceneMemory(), scenes_of(10, 11)
    with torch.no_grad():
        first.queries[0, 0] = torch.nan
    memory.store([first, second])
    assert len(memory) == 1


@pytest.mark.parametrize("images, expected", [((10,), 0.0), ((12, 12), 0.0)], ids=str)
def test_batches_without_negatives(images, expected):
    module, scenes = gallery_filter(), scenes_of(*images)
    loss = module.loss(scenes)
    loss.backward()
    assert float(loss) == expected
    assert scenes[0].embedding.grad is not None


def test_nobody_at_all_reaches_every_parameter():
    module, (scene,) = gallery_filter(), scenes_of(10)
    empty = Scene(10, scene.embedding, *(x[:0] for x in (scene.queries, scene.people, scene.rows)))
    loss = module.loss([empty])
    loss.backward()
    assert float(loss) == 0 and all(p.grad is not None for p in module.parameters())


def test_one_pair_leaves_the_running_statistics():
    module, (scene,) = gallery_filter(), scenes_of(11)
    one = Scene(11, scene.embedding, *(x[:1] for x in (scene.queries, scene.people, scene.rows)))
    assert float(module.loss([one])) == 0
    assert float(module.fuser.running_mean.abs().sum()) == 0


def test_losses_of_pairs():
    cosines = torch.tensor([[1.0, 0.9, 0.5, 0.2], [0.3, -1.0, 0.0, 0.0]])
    positive = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    negative = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    loss = contrastive_loss(cosines, positive, negative)
    assert float(loss) == pytest.approx(0.01304676, abs=1e-7)
    positive[1, 0] = True
    loss = contrastive_loss(cosines, positive, negative)
    assert float(loss) == pytest.approx(0.00869784, abs=1e-7)


def test_wrong_options():
    with pytest.raises(ValueError, match="'scene', expected one of combined, separate, image"):
        gallery_filter(mode="scene")
    with pytest.raises(ValueError, match="activation is 'mean', expected one of se, sum, identity"):
        gallery_filter(activation="mean")
    with pytest.raises(ValueError, match="queries is 'table', expected one of batch, oim"):
        gallery_filter(queries="table")
    with pytest.raises(ValueError, match="need the look-up table"):
        gallery_filter(queries="oim").loss(scenes_of(10, 11))
