"""Other projects' files, made here in their exact shapes, scored by this project's evaluation."""

import fractions
import json
import pickle
import pickletools

import numpy as np
import pytest
import torch
from scipy.io import savemat

from spnet_d2.data.person_search_json import (
    load_person_search_table,
    write_person_search_json,
    write_protocol,
)
from spnet_d2.data.person_search_schema import make_annotation
from spnet_d2.evaluation import Predictions
from spnet_d2.evaluation.peers import DumpError, convert_dump, read_dump, read_image_names
from spnet_d2.evaluation.peers.conversion import map_scores
from spnet_d2.evaluation.peers.safe_load import load_pickle, load_torch
from tests.fixtures.scripts import load_script

F = np.float32
# Image a has two people, b nobody that is found, q the query; their order in the file is b, q, a.
NAMES = ["s2.jpg", "s9.jpg", "s10.jpg"]
A = np.array([[10, 20, 50, 100, 0.9], [60, 20, 90, 90, 0.6]], F)
A_UNIT = np.array([[1, 0], [0.6, 0.8]], F)
Q = np.array([[70, 60, 110, 108, 0.8]], F)
QUERY = np.array([0.8, 0.6], F)
EMPTY = np.zeros((0, 5), F)


@pytest.fixture
def corpus(tmp_path):
    """Ids by sorted name, as prepared corpora have them: s10.jpg 0, s2.jpg 1, s9.jpg 2."""
    images = [
        {"id": number, "file_name": name, "width": 120, "height": 110}
        for number, name in enumerate(sorted(NAMES))
    ]
    boxes = [(0, (10, 20, 40, 80), 1), (0, (60, 20, 30, 70), 2), (2, (70, 60, 40, 48), 1)]
    annotations = [
        make_annotation(10 + n, image, box, person, True)
        for n, (image, box, person) in enumerate(boxes)
    ]
    write_person_search_json(tmp_path / "test.json", images, annotations)
    write_protocol(tmp_path / "G2.json", [0, 1, 2], {12: [0, 1]})
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def seqnet(weight=True, doubled=False):
    """``eval_cache.pth``: features times score; COAT's are two of them side by side."""
    feats = A_UNIT * A[:, 4:] if weight else A_UNIT
    own = np.array([[0.8, 0.6]], F) * 0.8
    query = QUERY[None]
    width = 2
    if doubled:
        feats, own, query = (np.concatenate([x, x], 1) for x in (feats, own, query))
        width = 4
    return {
        "gallery_dets": [EMPTY, Q, A],
        "gallery_feats": [np.zeros((0, width), F), own, feats],
        "query_dets": [np.array([[70, 60, 110, 108, 1]], F)],
        "query_feats": [query],
        "query_box_feats": [query],
    }


def save(folder, content, legacy=False):
    path = folder / "eval_cache.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def convert(corpus, project, *files, names="names.txt", floor=None):
    table = load_person_search_table(corpus / "test.json")
    names = read_image_names(corpus / names) if names else None
    return convert_dump(project, read_dump(project, files), table, [12], names, floor)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("project", ["seqnet", "coat"])
def test_lists_of_torch_files_old_and_new(corpus, project, legacy):
    file = save(corpus, seqnet(doubled=project == "coat"), legacy)
    predictions, notes = convert(corpus, project, file)
    # The empty image has no row; the others have their own ids.
    assert predictions.image_ids.tolist() == [2, 0, 0]
    assert predictions.scores.tolist() == [F(0.8), F(0.9), F(0.6)]
    assert predictions.boxes[1].tolist() == [10, 20, 50, 100]
    assert predictions.gt_annotation_ids.tolist() == [12]
    cosines = predictions.embeddings @ predictions.gt_embeddings[0]
    cosines /= np.linalg.norm(predictions.embeddings, axis=1)
    cosines /= np.linalg.norm(predictions.gt_embeddings)
    assert cosines[1:] == pytest.approx([0.8, 0.96])
    # As COAT's own similarity is twice that of the score-weighted cosine.
    dots = predictions.embeddings @ predictions.gt_embeddings[0]
    assert dots[1:] == pytest.approx([1.44, 1.152] if project == "coat" else [0.72, 0.576])
    kind = "length = sqrt(2) score, two features" if project == "coat" else "length = score"
    assert kind in notes[0] and "cws_mAP" in notes[1]


def test_scored_by_the_tool_as_by_their_own_scorer(corpus, capsys):
    """Score times cosine puts the right person first, plain cosine second."""
    file = save(corpus, seqnet())
    files = ("--annotations", corpus / "test.json", "--protocol", corpus / "G2.json")
    files = [str(word) for word in files]
    arguments = ["--from", "seqnet", str(file), "--names", str(corpus / "names.txt")]
    output = str(corpus / "seqnet.npz")
    load_script("tools/convert_predictions.py").main([*arguments, *files, "--output", output])
    assert "3 detections in 3 images, 1 queries" in capsys.readouterr().out
    assert Predictions.load(output).scores.dtype == F
    arguments = [*files, "--predictions", output, "--cws", "--output", str(corpus / "out")]
    assert load_script("tools/evaluate.py").main(arguments) == 0
    metrics = json.loads((corpus / "out" / "metrics.json").read_text())
    assert (metrics["mAP"], metrics["cws_mAP"]) == pytest.approx((0.5, 1))


def test_oim_of_python_2(corpus):
    """Protocol 2, byte strings, numpy's old module names."""
    folder = corpus / "oim"
    folder.mkdir()
    content = {
        "gallery_detections.pkl": [EMPTY, Q, A],
        "gallery_features.pkl": {"feat": [np.zeros((0, 2), F), QUERY[None], A_UNIT]},
        "probe_features.pkl": {"feat": [QUERY]},
    }
    for name, value in content.items():
        data = pickle.dumps(value, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / name).write_bytes(data)
    assert b"numpy.core.multiarray" in (folder / "gallery_detections.pkl").read_bytes()
    predictions, notes = convert(corpus, "oim", folder)
    assert predictions.image_ids.tolist() == [2, 0, 0]
    assert "unit length" in notes[0] and notes[1].endswith("here mAP, top1")
    # Bytes that Python 2 wrote as text.
    old = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R."
    (folder / "old.pkl").write_bytes(old)
    pickletools.dis(old, out=open("/dev/null", "w"))
    assert load_pickle(folder / "old.pkl").size == 0
    (folder / "probe_features.pkl").unlink()
    with pytest.raises(DumpError, match="expected a folder with gallery_detections.pkl"):
        convert(corpus, "oim", folder)


def mmdet(*rows):
    return [[row] for row in rows]


def test_pstr_takes_queries_among_its_detections(corpus):
    """The detection that overlaps most is the query, whatever its score; features of any length."""
    own = np.array([[71, 60, 111, 108, 0.3, 3, 4], [8, 5, 60, 95, 0.99, 1, 0]], F)
    gallery = np.concatenate([A, 5 * A_UNIT], 1)
    # An image without detections has a width of its own there.
    file = corpus / "results_1000.pkl"
    with open(file, "wb") as out:
        pickle.dump(mmdet(np.zeros((0, 261), F), own, gallery), out, 2)
    predictions, notes = convert(corpus, "pstr", file, floor=0.25)
    assert predictions.gt_embeddings.tolist() == [[3, 4]]
    assert predictions.scores[0] == pytest.approx(0.5 + 0.5 * 0.05 / 0.75)
    assert any("--score-floor 0.25" in note for note in notes)
    with open(file, "wb") as out:
        pickle.dump(mmdet(own, np.zeros((0, 261), F), gallery), out, 2)
    (corpus / "names.txt").write_text("s2.jpg\ns9.jpg\ns10.jpg\n")
    predictions, notes = convert(corpus, "alignps", file)
    assert not predictions.gt_embeddings.any()
    assert "1 queries have no detection in their image: they find nobody" in notes


def test_a_protocol_of_other_annotations(corpus):
    table = load_person_search_table(corpus / "test.json")
    dump = read_dump("seqnet", [save(corpus, seqnet())])
    with pytest.raises(DumpError, match="1 queries of the protocol are no annotations, first 99"):
        convert_dump("seqnet", dump, table, [99], NAMES)


def test_scores_are_mapped_to_the_floor_of_this_evaluation():
    mapped = map_scores(np.array([0.25, 0.625, 0.125, 1, 0]), 0.25)
    assert mapped.tolist() == [0.5, 0.75, 0.25, 1, 0]


def test_projects_that_save_nothing_by_the_snippet_of_the_docs(corpus):
    """NAE, GFN, DiffPS, SEAS: lists with names; queries in any order, found by image and box."""
    content = seqnet() | {
        "image_names": NAMES,
        "query_names": ["s9.jpg"],
        "query_boxes": [np.array([70, 60, 110, 108], F)],
    }
    del content["query_dets"], content["query_feats"]
    for project in ("nae", "gfn", "diffps", "seas"):
        predictions, _ = convert(corpus, project, save(corpus, content), names=None)
        assert predictions.image_ids.tolist() == [2, 0, 0]
    content["query_boxes"][0][0] += 3
    with pytest.raises(DumpError, match="is no query of the protocol"):
        convert(corpus, "nae", save(corpus, content), names=None)


def test_lists_of_names(corpus):
    """The corpora's own lists; PRW's has no suffixes."""
    cells = np.empty((3, 1), object)
    cells[:, 0] = NAMES
    savemat(corpus / "pool.mat", {"pool": cells})
    assert read_image_names(corpus / "pool.mat") == NAMES
    cells[:, 0] = [name.removesuffix(".jpg") for name in NAMES]
    savemat(corpus / "frame_test.mat", {"img_index_test": cells})
    predictions, _ = convert(corpus, "seqnet", save(corpus, seqnet()), names="frame_test.mat")
    assert predictions.image_ids.tolist() == [2, 0, 0]
    savemat(corpus / "pool.mat", {"other": cells})
    with pytest.raises(DumpError, match="neither CUHK-SYSU's pool.mat nor"):
        read_image_names(corpus / "pool.mat")
    with pytest.raises(DumpError, match="No list of image names"):
        read_image_names(corpus / "nothing.txt")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["gallery_dets"].pop(), "2 images have detections, 3 features"),
        (lambda c: c.pop("gallery_feats"), "expected a dict with gallery_dets"),
        (lambda c: c["query_box_feats"].append(QUERY), "2 queries, the protocol 1"),
        (lambda c: c["gallery_dets"].__setitem__(2, A[:1]), "image 2 must have detections"),
        (lambda c: c["gallery_dets"].reverse(), r"image 0 must have detections \(n, 5\)"),
        (lambda c: c["gallery_dets"].__setitem__(2, A * [1, 1, 1, 1, 9]), "scores must be 0 to 1"),
        (lambda c: c["gallery_dets"].__setitem__(2, A * [3, 3, 3, 3, 1]), "beyond their image"),
        (lambda c: c["gallery_feats"][2].fill(np.nan), "NaN or infinite"),
        (lambda c: c["query_dets"][0].__setitem__((0, 0), 9), "queries are in another order"),
        (lambda c: c["query_box_feats"].__setitem__(0, np.ones((1, 3), F)), "have one length"),
        (lambda c: [d[:, 4:].fill(1) for d in c["gallery_dets"]], "holds ground-truth boxes"),
    ],
)
def test_files_that_do_not_fit_are_named(corpus, change, message):
    content = json_copy(seqnet())
    change(content)
    with pytest.raises(DumpError, match=message):
        convert(corpus, "seqnet", save(corpus, content))


def json_copy(content):
    return {key: [np.array(row) for row in rows] for key, rows in content.items()}


def test_an_order_that_is_wrong_finds_nobody(corpus):
    (corpus / "names.txt").write_text("s2.jpg\ns10.jpg\ns9.jpg\n")
    with pytest.raises(DumpError, match="annotated boxes are found"):
        convert(corpus, "seqnet", save(corpus, seqnet()))
    (corpus / "names.txt").write_text("s2.jpg\ns10.jpg\n")
    with pytest.raises(DumpError, match="3 images, the list of names 2; the annotations have 3"):
        convert(corpus, "seqnet", save(corpus, seqnet()))
    (corpus / "names.txt").write_text("s2.jpg\ns10.jpg\ns11.jpg\n")
    with pytest.raises(DumpError, match="1 of the 3 image names are not in .* first 's11.jpg'"):
        convert(corpus, "seqnet", save(corpus, seqnet()))
    (corpus / "names.txt").write_text("s2.jpg\ns10.jpg\ns2.jpg\n")
    with pytest.raises(DumpError, match="'s2.jpg' twice"):
        convert(corpus, "seqnet", save(corpus, seqnet()))
    with pytest.raises(DumpError, match="give the image names in its order"):
        convert(corpus, "seqnet", save(corpus, seqnet()), names=None)


class Trap:
    def __reduce__(self):
        return fractions.Fraction, (1, 2)


def test_code_in_a_file_is_not_run(corpus):
    file = corpus / "a.pkl"
    file.write_bytes(pickle.dumps([Trap()], 2))
    with pytest.raises(DumpError, match="a.pkl was not loaded: it names fractions.Fraction"):
        load_pickle(file)
    torch.save([Trap()], corpus / "a.pth")
    with pytest.raises(DumpError, match="a.pth was not loaded .* it names fractions.Fraction"):
        load_torch(corpus / "a.pth")
    file.write_bytes(b"no pickle")
    with pytest.raises(DumpError, match="a.pkl is no pickle, or damaged"):
        load_pickle(file)
    for load in (load_pickle, load_torch):
        with pytest.raises(DumpError, match="cannot be read"):
            load(corpus / "nothing")


@pytest.mark.parametrize("content", [b"", b"no torch file", pickle.dumps([A], 2)])
def test_what_is_no_torch_file_is_one_line(corpus, content):
    file = corpus / "a.pth"
    file.write_bytes(content)
    with pytest.raises(DumpError, match=r"a.pth was not .* no torch file, or damaged \(\w+\)"):
        load_torch(file)


def test_numbers_of_other_types(corpus):
    """Unsigned bytes are read; of an array of objects the type is named."""
    torch.save([np.arange(3, dtype=np.uint8)], corpus / "a.pth")
    assert load_torch(corpus / "a.pth")[0].tolist() == [0, 1, 2]
    torch.save([np.array([A, Q], object)], corpus / "a.pth")
    with pytest.raises(DumpError, match="it names numpy.dtypes.ObjectDType, which is no array"):
        load_torch(corpus / "a.pth")


def test_one_line_from_the_tool(corpus, capsys):
    arguments = ["--from", "seqnet", str(save(corpus, {})), "--output", str(corpus / "o.npz")]
    arguments += ["--annotations", str(corpus / "test.json"), "--protocol", str(corpus / "G2.json")]
    assert load_script("tools/convert_predictions.py").main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("convert_predictions: ") and error.count("\n") == 1
    assert not (corpus / "o.npz").exists()
