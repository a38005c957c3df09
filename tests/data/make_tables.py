#!/usr/bin/env python3
"""Records tables of notes as programs write CSV files, in tables.zip beside this file, and the notes that pandas reads in them.

    pip install pandas==3.1.1 && python make_tables.py

expected.json: for each table the note of each file, null where pandas finds none. The published code reads the first and the third
column by `pandas.read_csv`, strips both and cuts the note.
"""

import csv
import io
import json
import zipfile
from pathlib import Path

import pandas

NOTES = {
    "data_00001.npz": "  Cup-to-disc ratio 0.8,\nrim \"thin\" below. ",
    "data_00002.npz": "\u00a0\u3000Zwölf Grad — „Verdacht“,\tIOP 21/18\u2003",
    "data_00003.npz": "x" * 200 + " ends without a space before",
    "data_00004.npz": "word " * 50,
    "data_00005.npz": "'Single', semicolon; 5\" disc | pipe \\ backslash # hash",
}
HEADER = ["filename", "note", "gpt4_summary", "more"]


def written(rows=None, start="", encoding="utf-8", **form):
    file = io.StringIO(newline="")
    writer = csv.writer(file, **form)
    writer.writerow(HEADER)
    writer.writerows(rows or [[name, "long", note, i] for i, (name, note) in enumerate(NOTES.items())])
    return (start + file.getvalue()).encode(encoding)


def tables():
    yield "unix", written(lineterminator="\n")
    yield "windows", written(lineterminator="\r\n")
    yield "quoted", written(quoting=csv.QUOTE_ALL)
    yield "texts quoted", written(quoting=csv.QUOTE_NONNUMERIC)
    yield "mark", written(encoding="utf-8-sig")
    yield "mark and quotes", written(encoding="utf-8-sig", quoting=csv.QUOTE_ALL)
    yield "no last line break", written().rstrip(b"\r\n")
    yield "blank lines", written(lineterminator="\n").replace(b"\ndata_", b"\n\n\ndata_") + b"\n\n"
    yield "pandas", pandas.DataFrame({"filename": NOTES, "note": "long", "gpt4_summary": NOTES}).assign(filename=list(NOTES)).to_csv(index=False).encode()
    yield "spaces around names", written([[f"  {name} ", "long", note] for name, note in NOTES.items()])
    yield "twice", written([[name, "long", note] for name, note in [*dict.fromkeys(NOTES, "first").items(), *NOTES.items()]])
    yield "some without", written([[name, "long", note if i % 2 else ""] for i, (name, note) in enumerate(NOTES.items())])
    yield "short rows", written([[name, "long", note][: 3 - i % 3] for i, (name, note) in enumerate(NOTES.items())])
    yield "quotes within", b'filename,note,gpt4_summary\ndata_00001.npz,long,5" disc "pale" here\ndata_00002.npz,"a ""b""","""c"", d"\n'


def cut(note):
    """As the published code has it."""
    if len(note) > 180:
        note = note[:180]
        note = note[: note.rfind(" ")]
    return note


def read(table):
    rows = pandas.read_csv(io.BytesIO(table))
    notes = {row.iloc[0].strip(): row.iloc[2] for _, row in rows.iterrows()}
    return {name: cut(notes[name].strip()) if isinstance(notes.get(name), str) else None for name in NOTES}


def main():
    with zipfile.ZipFile(Path(__file__).with_name("tables.zip"), "w") as archive:
        expected = {name: read(table) for name, table in tables()}
        for name, content in [*tables(), ("expected.json", json.dumps(expected, ensure_ascii=False).encode())]:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


main()
