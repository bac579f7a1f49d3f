"""The two sets of rules that metrics can follow: what papers report, and without known mistakes.

``original`` is the rule of the official CUHK-SYSU and PRW evaluations, so it is the one whose
metrics compare with published ones. ``corrected`` differs from it in exactly the fields of
:class:`ProtocolVariant`; everything else (score floor, IoU thresholds, choice of the hit, average
precision) is the same in both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ProtocolVariant:
    """Rules of an evaluation.

    Attributes:
        name: name in reports.
        repeats_count: a gallery image listed twice shows the person twice, though its
            boxes are ranked once, so that even a perfect ranking stays below 1.
        first_box_only: of a person annotated twice in an image only the first box can be
            hit; otherwise any of them (the image still counts once).
        unmatchable_count: queries whose gallery does not show the person score 0 and stay
            in the mean; otherwise they are left out of it.
        own_frame_searched: a query's own image is searched where a gallery lists it, so
            that the query finds itself.
        mutual_best_only: detection: a detection whose best ground-truth box is taken by a
            better one stays unmatched even if it overlaps another person; otherwise detections
            choose in the order of their scores, each the best box that is still free.
        absent_ignored: query-centric detection: false positives in gallery images without
            the query's person are ignored.
    """

    name: str
    repeats_count: bool
    first_box_only: bool
    unmatchable_count: bool
    own_frame_searched: bool
    mutual_best_only: bool
    absent_ignored: bool


ORIGINAL = ProtocolVariant("original", True, True, True, True, True, True)
CORRECTED = ProtocolVariant("corrected", False, False, False, False, False, False)
VARIANTS = {variant.name: variant for variant in (ORIGINAL, CORRECTED)}
