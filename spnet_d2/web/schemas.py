"""What the API takes and gives: the types of its documentation.

Boxes are ``[x, y, width, height]`` in pixels of the upright image. Times are ISO 8601 with a zone;
null where unknown. Similarities are cosines.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

MAX_EXAMPLES = 50
MAX_PAGE = 200
# So deep a ranking nobody reads; it bounds what one request can cost.
MAX_DEPTH = 5000
Id = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Box = Annotated[list[Pixel], Field(min_length=4, max_length=4)]
_POSITION = "where in its source: m:ss of a video, or the frame's number"
Decision = Literal["confirmed", "rejected", "open"]


class Strict(BaseModel):
    """Unknown fields are errors: a misspelt filter must not widen a search."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Every error's body."""

    detail: str


class Example(Strict):
    """
    One picture of a person: somebody of the gallery, or a box in an indexed scene or an upload.
    """

    person: Id | None = Field(default=None, description="a row of the gallery; needs no model")
    source: Name | None = Field(default=None, description="an indexed source, with frame and box")
    frame: Id | None = None
    upload: Name | None = Field(default=None, description="id of an uploaded picture")
    box: Box | None = Field(
        default=None, description="without it, an upload is taken as a crop of the person"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "Example":
        kinds = [self.person is not None, self.source is not None, self.upload is not None]
        if sum(kinds) != 1:
            raise ValueError("give one of person, source (with frame and box), upload")
        if self.source is not None and (self.frame is None or self.box is None):
            raise ValueError("source needs frame and box")
        if self.source is None and self.frame is not None:
            raise ValueError("frame belongs to source")
        if self.person is not None and self.box is not None:
            raise ValueError("a person of the gallery has a box already")
        return self


class Where(Strict):
    """Conditions that hold before neighbours are taken; null: none."""

    cameras: list[Name] | None = Field(default=None, max_length=1000)
    sources: list[Name] | None = Field(default=None, max_length=1000)
    since: AwareDatetime | None = None
    before: AwareDatetime | None = None
    min_score: float | None = Field(default=None, ge=0, le=1)


class SearchRequest(Strict):
    positives: list[Example] = Field(min_length=1, max_length=MAX_EXAMPLES)
    negatives: list[Example] = Field(default=[], max_length=MAX_EXAMPLES)
    where: Where = Where()
    min_similarity: float = Field(default=-1, ge=-1, le=1)
    grouped: bool = Field(default=True, description="one hit per tracklet, its best")
    offset: int = Field(default=0, ge=0, le=MAX_DEPTH)
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)


class Person(BaseModel):
    """Somebody of the gallery, in one frame."""

    id: int
    source: str
    camera: str
    frame: int
    time: datetime | None
    position: str = Field(description=_POSITION)
    box: list[float]
    score: float
    # Text: browsers' numbers lose digits of 64-bit ones.
    tracklet: str | None
    has_thumbnail: bool


class Hit(Person):
    similarity: float
    probability: float | None = Field(description="that it is the person; null if not calibrated")
    rows: int = Field(description="rows of its tracklet among the results")


class Verdict(BaseModel):
    """Whether the best hit is above what strangers reach."""

    nobody: bool
    threshold: float = Field(description="similarity")
    false_alarms: float = Field(description="expected per search, at this threshold")


class SearchResponse(BaseModel):
    hits: list[Hit]
    more: bool = Field(description="whether there are hits after these")
    verdict: Verdict | None = Field(description="null if the gallery is not calibrated")
    seconds: float


class Camera(BaseModel):
    name: str
    people: int
    first: datetime | None
    last: datetime | None


class Threshold(BaseModel):
    false_alarms: float
    similarity: float


class GalleryInfo(BaseModel):
    people: int
    cameras: list[Camera]
    thresholds: list[Threshold] = Field(description="for the slider; [] if not calibrated")
    can_embed: bool = Field(description="whether the model is here, for uploads and free boxes")
    can_add: bool = Field(description="whether footage can be added from the page")


class Scene(BaseModel):
    """A frame of a source."""

    source: str
    camera: str
    frame: int
    time: datetime | None
    position: str = Field(description=_POSITION)
    people: int


class Scenes(BaseModel):
    scenes: list[Scene]
    more: bool


class ScenePerson(BaseModel):
    """Somebody found in a frame; the gallery keeps the best rows of each tracklet."""

    id: int | None = Field(description="the row; null where another frame's stands for it")
    box: list[float]
    score: float
    camera: str
    time: datetime | None
    position: str = Field(description=_POSITION)
    has_thumbnail: bool


class SceneView(BaseModel):
    """A scene to show: its people, and whether its image can be read."""

    source: str
    camera: str
    frame: int
    time: datetime | None
    position: str = Field(description=_POSITION)
    width: int
    height: int
    people: list[ScenePerson]
    problem: str | None = Field(description="why there is no image; thumbnails are left")


class ScoredBox(BaseModel):
    box: list[float]
    score: float


class UploadView(BaseModel):
    id: str
    width: int
    height: int
    people: list[ScoredBox]


class NewCase(Strict):
    name: str = Field(min_length=1, max_length=200)


class CaseChange(Strict):
    name: str | None = Field(default=None, min_length=1, max_length=200)
    notes: str | None = Field(default=None, max_length=100_000)


class SightingChange(Strict):
    decision: Decision
    note: str = Field(default="", max_length=10_000)
    similarity: float | None = Field(default=None, ge=-1.001, le=1.001)
    probability: float | None = Field(default=None, ge=0, le=1)


class Sighting(BaseModel):
    """A person of the gallery as a case keeps them, also after the gallery has let go of them."""

    person: int
    decision: Decision
    note: str
    similarity: float | None
    probability: float | None
    source: str
    camera: str
    frame: int
    time: datetime | None
    # Cases of before this was kept have none.
    position: str = Field(default="", description=_POSITION)
    box: list[float]
    picture: str | None


class CaseQuery(BaseModel):
    number: int
    example: Example | None = Field(description="null: an upload, which is forgotten soon")
    label: str
    picture: str | None


class Case(BaseModel):
    id: str
    name: str
    notes: str
    created: datetime
    changed: datetime
    queries: list[CaseQuery]
    sightings: list[Sighting]


class CaseSummary(BaseModel):
    id: str
    name: str
    changed: datetime
    queries: int
    confirmed: int
    sightings: int


class SourceView(BaseModel):
    name: str
    camera: str
    kind: str
    people: int
    available: bool


class NewSource(Strict):
    path: str = Field(min_length=1, max_length=4000)
    name: str | None = Field(default=None, max_length=200)
    camera: str | None = Field(default=None, max_length=200)
    start: AwareDatetime | None = None
    fps: float = Field(default=1.0, gt=0, le=60)


class Job(BaseModel):
    """Footage that is being indexed."""

    id: str
    source: str
    state: Literal["running", "done", "failed"]
    progress: float | None = Field(description="0 to 1; null while unknown")
    message: str


class Entry(BaseModel):
    """A line of the audit log."""

    time: datetime
    who: str
    what: str
    details: dict
