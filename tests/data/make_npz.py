#!/usr/bin/env python3
"""Records a data set of npz files in every form that NumPy writes them in, as numpy.zip beside this file, and what NumPy reads.

    pip install numpy==2.4.0 && python make_npz.py

expected.json: for each file either {"label", "groups", "image"}, or {"refused": words that the reason must have}.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

IMAGE = (np.arange(30).reshape(6, 5) * 7) % 120
NAMES = ["glaucoma", "race", "gender", "ethnicity", "language"]
PLAIN = dict(zip(NAMES, map(np.asarray, [1, 2, 0, 1, -1])))


class Stream(io.RawIOBase):
    """A file that cannot be wound back, into which zip archives are written with their sizes behind the data."""

    def __init__(self):
        self.held = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.held += bytes(data)
        return len(data)


def saved(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def archived(arrays, version=(1, 0), compression=zipfile.ZIP_STORED, file=None, comment=b""):
    """As np.savez does it, with what it leaves no choice of."""
    file = file or io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.comment = comment
        for name, array in arrays.items():
            npy = io.BytesIO()
            np.lib.format.write_array(npy, np.asanyarray(array), version=version)
            archive.writestr(f"{name}.npy", npy.getvalue())
    return bytes(file.held) if isinstance(file, Stream) else file.getvalue()


def with_image(array):
    return {**PLAIN, "slo_fundus": array}


def with_number(array, name="ethnicity"):
    return {**with_image(IMAGE.astype("u1")), name: array}


def good():
    for kind in "u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split():
        for order in "<>":
            yield f"image {order}{kind}", saved(with_image(IMAGE.astype(order + kind)), np.savez_compressed)
            yield f"image {order}{kind} by column", saved(with_image(np.asfortranarray(IMAGE.astype(order + kind))))
            yield f"number {order}{kind}", saved(with_number(np.asarray(1, order + kind)))
            yield f"number {order}{kind} in brackets", saved(with_number(np.asarray([1], order + kind)), np.savez_compressed)
    yield "image turned and cut", saved(with_image((np.arange(120).reshape(10, 12) % 120)[::-2, 1:7]))
    yield "image of a map", saved(with_image(np.asmatrix(IMAGE)))
    for order in "<>":
        for text in ["1", "0", "-1", "1.0", " 1 ", "+1", "1" + "\0" * 4]:
            yield f"text {order} {text!r}", saved(with_number(np.asarray(text, order + "U5")))
        yield f"text {order} in brackets", saved(with_number(np.asarray(["1"], order + "U1")))
    yield "bytes", saved(with_number(np.asarray(b"1")))
    yield "padded bytes", saved(with_number(np.asarray(b"-1", "S7")))
    yield "bytes in two brackets", saved(with_number(np.asfortranarray([[b"1"]])))
    for truth in [False, True]:
        yield f"bool {truth}", saved(with_number(np.asarray(truth)))
        yield f"bool {truth} label", saved(with_number(np.asarray([truth]), "glaucoma"))
    yield "minus zero", saved(with_number(np.asarray(-0.0)))
    yield "three brackets by column", saved(with_number(np.asfortranarray([[[1]]])))
    whole = with_number(np.asarray(1))
    for version in [(1, 0), (2, 0), (3, 0)]:
        yield f"version {version[0]}", archived(whole, version)
        yield f"version {version[0]} deflated", archived(whole, version, zipfile.ZIP_DEFLATED)
    yield "sizes behind the data", archived(whole, file=Stream())
    yield "sizes behind deflated data", archived(whole, compression=zipfile.ZIP_DEFLATED, file=Stream())
    yield "savez into a stream", streamed(whole)
    yield "commented", archived(whole, comment=b"of the left eye")
    more = {
        "md": np.float64(-3.5), "tds": np.linspace(-30, 5, 52), "note": np.asarray("Schön,\n„rund“"), "note_extra": np.asarray(["a", None]),
        "meta/race": np.asarray(9), "slo_fundus/left": np.zeros((2, 2)), "größe": np.arange(3), "points": np.zeros(3, [("x", "<f4"), ("ÿ", "i1")]),
        "age": np.asarray(60.9, np.longdouble), "when": np.asarray("2025-02-09", "M8[D]"), "words": np.asarray(["a", "b"], np.dtypes.StringDType()),
    }  # fmt: skip
    yield "more arrays", saved({**more, **whole}, np.savez_compressed)
    yield "other order", saved(dict(reversed(whole.items())))


def streamed(arrays):
    file = Stream()
    np.savez(file, **arrays)
    return bytes(file.held)


def refused():
    yield "long double", saved(with_image(IMAGE.astype(np.longdouble))), "these are"
    yield "complex", saved(with_image(IMAGE.astype("c8"))), "these are"
    yield "dates", saved(with_image(IMAGE.astype("M8[s]"))), "these are"
    yield "objects", saved(with_image(IMAGE.astype(object))), "pickled"
    yield "records", saved(with_image(np.zeros((6, 5), [("a", "u1"), ("b", "u1")]))), "slo_fundus"
    yield "strings", saved(with_image(np.asarray([["1", "2"], ["3", "4"]], np.dtypes.StringDType()))), "slo_fundus"
    yield "image of three axes", saved(with_image(IMAGE.reshape(6, 5, 1))), "[6, 5, 1]"
    yield "image of nothing", saved(with_image(np.zeros((0, 5)))), "empty"
    yield "image of bools", saved(with_image(IMAGE % 2 == 0)), "from 0 to 255"
    yield "image of infinities", saved(with_image(np.full((6, 5), np.inf))), "numbers"
    yield "number of two", saved(with_number(np.asarray([1, 1]))), "one number"
    yield "number of none", saved(with_number(np.asarray([], int))), "one number"
    yield "number that is none", saved(with_number(np.asarray(np.nan))), "whole number"
    yield "number with a fraction", saved(with_number(np.asarray(0.5))), "whole number"
    yield "number too large", saved(with_number(np.asarray(2**64 - 1, "u8"))), "whole number"
    yield "number of objects", saved(with_number(np.asarray(None))), "pickled"
    yield "number of long doubles", saved(with_number(np.asarray(1, np.longdouble))), "these are"
    yield "no text", saved(with_number(np.asarray(""))), "text"
    yield "text of a word", saved(with_number(np.asarray("Hispanic"))), "Hispanic"
    yield "text of two", saved(with_number(np.asarray(["1", "1"]))), "one number"
    yield "bytes of no text", saved(with_number(np.asarray(b"\xff\xfe"))), "ethnicity"
    yield "no number", saved({"slo_fundus": IMAGE}), "it holds no glaucoma"
    yield "number only in a folder", saved({"slo_fundus": IMAGE, "in/glaucoma": 1}), "it holds no glaucoma"


def read(npz):
    """As the published code reads them."""
    arrays = np.load(io.BytesIO(npz))
    label, *groups = (int(float(arrays[name].item())) for name in NAMES)
    return {"label": label, "groups": groups, "image": arrays["slo_fundus"].astype("f4").tolist()}


def main():
    forms = [(name, npz, read(npz)) for name, npz in good()] + [(name, npz, {"refused": words}) for name, npz, words in refused()]
    expected, table = {}, "filename,race,gpt4_summary\n"
    with zipfile.ZipFile(Path(__file__).with_name("numpy.zip"), "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:

        def put(name, content):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)

        for i, (name, npz, want) in enumerate(forms):
            file = f"data_{i:05}.npz"
            expected[file] = {"form": name, **want}
            put(f"Training/{file}", npz)
        for split in ["Validation", "Test"]:
            put(f"{split}/data_10000.npz", saved({**with_image(IMAGE), "language": np.asarray(0)}))
        put("data_summary.csv", table)
        put("gpt4_summarized_notes.csv", table)
        put("expected.json", json.dumps(expected))


main()
