"""Scenes of earlier batches, from which a batch gets further positives and hard negatives."""

import torch

from .. import sampling
from .scenes import Scene

_OF_BOXES = ("queries", "people", "rows")


class SceneMemory:
    """
    The last embeddings of every training image with people, on the host and without gradients.

    It takes (images + boxes) x D x 4 bytes, in memory and in checkpoints: 545 MB for CUHK-SYSU at
    D = 2048. A run that starts from another one's weights starts with an empty one.
    """

    def __init__(self) -> None:
        self._scenes: dict[int, Scene] = {}
        self._images_of: dict[int, set[int]] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def store(self, scenes: list[Scene]) -> None:
        """
        Keep scenes that show somebody; a later one of the same image replaces the earlier.

        Embeddings that aren't finite are those of a bad batch, and would spoil later ones.
        """
        for scene in (s.kept() for s in scenes if len(s.people)):
            if not (scene.embedding.isfinite().all() and scene.queries.isfinite().all()):
                continue
            if scene.image_id in self._scenes:
                for person in self._scenes[scene.image_id].people.tolist():
                    self._images_of[person].discard(scene.image_id)
            self._scenes[scene.image_id] = scene
            for person in scene.people.tolist():
                self._images_of.setdefault(person, set()).add(scene.image_id)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """
        For checkpoints: of S scenes with B boxes, ``image_ids`` (S,), ``embeddings`` (S, D),
        ``counts`` (S,), their numbers of boxes, then ``queries`` (B, D), ``people`` and ``rows``
        (B,). Nothing of none.
        """
        scenes = list(self._scenes.values())
        if not scenes:
            return {}
        return {
            "image_ids": torch.tensor([s.image_id for s in scenes]),
            "counts": torch.tensor([len(s.people) for s in scenes]),
            "embeddings": torch.stack([s.embedding for s in scenes]),
            **{name: torch.cat([getattr(s, name) for s in scenes]) for name in _OF_BOXES},
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take what :meth:`state_dict` gave, in place of what is there."""
        self._scenes.clear()
        self._images_of.clear()
        if not state:
            return
        counts = state["counts"].tolist()
        # Copies: a part of a tensor would keep all of it, when others are replaced.
        parts = ([p.clone() for p in state[name].split(counts)] for name in _OF_BOXES)
        embeddings = [e.clone() for e in state["embeddings"]]
        columns = zip(state["image_ids"].tolist(), embeddings, *parts, strict=True)
        self.store([Scene(*columns_of_one) for columns_of_one in columns])

    def sample(self, batch: list[Scene], generator: torch.Generator) -> list[Scene]:
        """
        Scenes that show people of a batch, and scenes that show only the people around them.

        Args:
            batch: of all processes.
            generator: the same on all processes.

        Returns:
            For each of as many known people as the batch has images: one scene that shows the
            person, then one that shows someone from around the person but not the person; as far
            as there are any. No scene twice, none of the batch.
        """
        places = dict(zip(self._scenes, _order(len(self), generator)))
        taken = {scene.image_id for scene in batch}
        chosen = []
        for person in self._drawn(batch, generator):
            around = next(s.known for s in batch if person in s.known)
            with_person = self._images_of.get(person, set())
            near = set().union(*(self._images_of.get(p, set()) for p in around)) - with_person
            for candidates in (with_person, near):
                left = candidates - taken
                if left:
                    image = min(left, key=places.__getitem__)
                    taken.add(image)
                    chosen.append(self._scenes[image])
        return chosen

    @staticmethod
    def _drawn(batch: list[Scene], generator: torch.Generator) -> list[int]:
        people = sorted({person for scene in batch for person in scene.known})
        order = _order(len(people), generator)
        chosen = sorted(range(len(people)), key=order.__getitem__)[: len(batch)]
        return [people[i] for i in chosen]


def _order(count: int, generator: torch.Generator) -> list[int]:
    """Random places among a number of things."""
    if sampling._first_in_order:
        return list(range(count))
    return torch.randperm(count, generator=generator).tolist()
