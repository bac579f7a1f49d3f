"""The miniature corpora have the shapes and storage types that ``loadmat`` gives on real ones."""

import numpy as np
from scipy.io import loadmat


def test_cuhk_sysu_structures(cuhk_sysu_files):
    annotation = cuhk_sysu_files / "annotation"
    images = loadmat(annotation / "Images.mat")["Img"]
    assert images.shape == (1, 42) and images.dtype.names == ("imname", "nAppear", "box")
    record = images[0, 0]
    assert record["imname"].shape == (1,) and record["nAppear"].shape == (1, 1)
    assert record["box"].shape[0] == 1 and record["box"].dtype.names == ("idlocate", "ishard")
    assert record["box"][0, 0]["idlocate"].shape == (1, 4)

    pool = loadmat(annotation / "pool.mat")["pool"]
    assert pool.shape == (12, 1) and pool.dtype == object and pool[0, 0].shape == (1,)

    train = loadmat(annotation / "test/train_test/Train.mat")["Train"]
    assert train.shape == (14, 1) and train.dtype == object
    assert train[0, 0].shape == (1, 1) and train[0, 0].dtype.names == ("idname", "nAppear", "scene")
    assert train[0, 0][0, 0]["scene"].shape == (1, 2)

    search = loadmat(annotation / "test/train_test/TestG50.mat")["TestG50"]
    assert search.shape == (1, 4)
    query = search[0, 0]["Query"]
    assert query.shape == (1, 1)
    assert query.dtype.names == ("imname", "idlocate", "ishard", "idname")
    gallery = search[0, 0]["Gallery"]
    assert gallery.shape == (1, 6) and gallery.dtype.names == ("imname", "idlocate", "ishard")
    assert gallery[0, 0]["idlocate"].shape == (1, 4)
    # The official scorer reads the first row of an empty box, so (0, 0) would not do.
    assert gallery[0, -1]["idlocate"].shape == (1, 0)

    occlusion = loadmat(annotation / "test/subset/Occlusion.mat")["Occlusion1"]
    assert occlusion.dtype.names == ("Query", "Gallery", "occlusion")


def test_cuhk_sysu_boxes_are_stored_in_both_sizes(cuhk_sysu_files):
    images = loadmat(cuhk_sysu_files / "annotation/Images.mat")["Img"][0]
    boxes = [mark["idlocate"] for record in images for mark in record["box"][0]]
    assert all(box.dtype == np.uint8 for box in boxes)
    with np.errstate(over="ignore"):
        wrapped = [box for box in boxes if box[0, 0] + box[0, 2] < box[0, 0]]
    assert wrapped, "no box shows the overflow of x + w"


def test_prw_structures(prw_files):
    lists = loadmat(prw_files / "frame_train.mat")["img_index_train"]
    assert lists.shape == (10, 1) and str(lists[0, 0][0]) == "c1s1_000151"
    # As the readers of this corpus open it: without the ending .mat.
    first = loadmat(str(prw_files / "annotations/c1s1_000151.jpg"))
    assert first["box_new"].shape == (2, 5) and "anno_previous" in first
    assert "ID_test2" in loadmat(prw_files / "ID_test.mat")
    lines = (prw_files / "query_info.txt").read_bytes().split(b"\n")
    assert all(line.endswith(b"\r") for line in lines[:-1]) and lines[-1] == b""
