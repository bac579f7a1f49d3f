"""Parameters of k-reciprocal re-ranking (:mod:`.reranking`, which needs SciPy; these do not)."""

from dataclasses import dataclass

SHORTLIST = 1000


@dataclass(frozen=True)
class KReciprocal:
    """Parameters, the paper's values by default.

    Attributes:
        k1 (int): neighbours that may be reciprocal (with the element itself one more).
        k2 (int): nearest elements whose encodings are averaged ("local query expansion").
        weight (float): lambda, share of the original distance in the final one.
        shortlist (int): boxes per query that are re-ranked.

    Raises:
        ValueError: a parameter out of range.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    shortlist: int = SHORTLIST

    def __post_init__(self):
        if min(self.k1, self.k2, self.shortlist) < 1 or not 0 <= self.weight <= 1:
            raise ValueError(
                "k-reciprocal re-ranking needs k1, k2 and shortlist of 1 or more and a weight in "
                f"[0, 1], found {self}."
            )
