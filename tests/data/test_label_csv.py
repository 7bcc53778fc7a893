"""Label files as people write them: parsed one way, or an error that names the line."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewsight.data.label_csv import read_label_file
from fewsight.data.label_table import choose_root, resolve
from fewsight.errors import InvalidInput


@pytest.fixture
def read(tmp_path):
    def make(content: str | bytes):
        path = tmp_path / "labels.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_label_file(path)

    return make


def pairs(file) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.image, row.labels) for row in file.rows]


EXPECTED = [("a/1.jpg", ("cat",)), ("b 2.jpg", ("dog", "cat"))]


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na/1.jpg,cat\nb 2.jpg,dog;cat\n",
        "image,labels\r\na/1.jpg,cat\r\nb 2.jpg,dog;cat\r\n",
        "image,labels\ra/1.jpg,cat\rb 2.jpg,dog;cat",
        'image;labels\na/1.jpg;cat\nb 2.jpg;"dog;cat"\n',
        "image\tlabels\na/1.jpg\tcat\nb 2.jpg\tdog;cat\n",
        "Image, Labels\n\na/1.jpg, cat\n  \nb 2.jpg, dog; cat\n\n",
        'labels,"file",more\ncat,"a/1.jpg",1\n"dog;cat",b 2.jpg,"x,\ny"\n',
        "image,labels,\na/1.jpg,cat,\nb 2.jpg,dog;cat,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_one_table_in_many_spellings(read, text, encoding):
    assert pairs(read(text.encode(encoding))) == EXPECTED


def test_a_file_without_header_is_read_and_said(read):
    file = read("a/1.jpg,cat\nb 2.jpg,dog\n")
    assert pairs(file) == [("a/1.jpg", ("cat",)), ("b 2.jpg", ("dog",))]
    assert "no header" in file.warnings[0]


def test_the_other_columns(read):
    file = read("file_name,species,split,mask,station\n1.jpg,fox,train,m/1.png,S7\n2.jpg,,,,\n")
    assert file.rows[0][1:] == ("1.jpg", ("fox",), "m/1.png", "train", "S7", None)
    assert file.rows[1].labels == ()


def test_one_label_keeps_its_semicolon_and_its_trailing_space(read):
    assert pairs(read('image,label\n1.jpg,"a;b"\n2.jpg,cat \n')) == [
        ("1.jpg", ("a;b",)),
        ("2.jpg", ("cat ",)),
    ]


def test_a_corrected_predictions_file(read):
    header = "file,label,score,runner_up,runner_up_score,margin,novelty,status,note\n"
    file = read(header + 'a.jpg,cat,0.9,dog,0.1,0.8,0.2,ok,"x, y"\nb.jpg,,,,,,,unreadable,truncated\n')
    assert pairs(file) == [("a.jpg", ("cat",)), ("b.jpg", ())]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", None, "empty"),
        ("x,y\n1,2\n", 1, "no column names the images"),
        ("image,labels\n1.jpg,cat\n2.jpg\n", 3, "1 fields"),
        ("image,labels\n1.jpg,cat,dog\n", 2, "3 fields"),
        ('image,labels\n"1\n.jpg",cat\n2.jpg,a,b\n', 4, "3 fields"),
        ("image,labels\n,cat\n", 2, "empty"),
        ("image,labels\n1.jpg,cat\n\n1.jpg,dog\n", 4, "'dog', but 'cat' in line 2"),
        ("image,labels\n1\0.jpg,cat\n", 2, "zero byte"),
        (b"image,labels\n1.jpg,cafe\xe9\n", 2, "UTF-8"),
        ('image,labels\n1.jpg,"cat\n', 2, "unexpected end"),
        ('image,labels\n1.jpg,"cat"x\n', 2, "expected after"),
        (b"\xff\xfei\0m\0a", None, "UTF-16"),
    ],
)
def test_errors_name_the_line(read, text, line, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        read(text)
    assert line is None or f"line {line}:" in str(caught.value)


def test_a_repeated_row_is_one_row(read):
    file = read("image,labels\n1.jpg,cat\n1.jpg,cat\n")
    assert len(file.rows) == 1
    assert "line 3" in file.warnings[0]


def test_missing_files_are_errors_for_people(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_label_file(tmp_path / "none.csv")


def test_paths_are_found_and_stay_inside(read, tmp_path, write):
    for name in ("a/1.jpg", "back\\slash.jpg", "c.jpg"):
        write(tmp_path / name)
    (tmp_path / "caf\udce9.jpg").write_bytes(b"1")
    file = read('image,labels\na\\1.jpg,x\nback\\slash.jpg,x\n./d/../c.jpg,x\n"caf\\xe9.jpg",x\ngone.jpg,x\n')
    found = [(row.file, exists) for _, row, exists in resolve(file, tmp_path)]
    assert found == [
        (b"a/1.jpg", True),
        (b"back\\slash.jpg", True),
        (b"c.jpg", True),
        (b"caf\xe9.jpg", True),
        (b"gone.jpg", False),
    ]


@pytest.mark.parametrize(
    "path", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg", ".", "a/.."]
)
def test_paths_that_lead_out_are_refused_with_their_line(read, tmp_path, path):
    file = read(f"image,labels\n{path},cat\n")
    with pytest.raises(InvalidInput, match="line 2"):
        list(resolve(file, tmp_path / "root"))
    file = read(f"image,labels,mask\na.jpg,cat,{path}\n")
    with pytest.raises(InvalidInput, match="line 2"):
        list(resolve(file, tmp_path / "root"))


def test_absolute_paths_inside_the_root_are_fine(read, tmp_path, write):
    write(tmp_path / "a" / "1.jpg")
    file = read(f"image,labels\n{tmp_path}/a/1.jpg,cat\n")
    assert [row.file for _, row, _ in resolve(file, tmp_path)] == [b"a/1.jpg"]


def test_the_root_that_holds_the_images_is_chosen(read, tmp_path, write):
    write(tmp_path / "photos" / "1.jpg")
    file = read("image,labels\n1.jpg,cat\n2.jpg,cat\n")
    assert choose_root(file.rows, [tmp_path, tmp_path / "photos"]) == tmp_path / "photos"
    assert choose_root(file.rows, [tmp_path, tmp_path / "other"]) == tmp_path


TEXTS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=12
)
FILES = TEXTS.map(lambda text: f"f{text.strip()}f.jpg")
LABELS = TEXTS.map(lambda text: "l" + text.replace(";", "").rstrip())


@settings(deadline=None)
@given(
    st.dictionaries(FILES, st.lists(LABELS, max_size=3, unique=True), min_size=1, max_size=6),
    st.sampled_from(",;\t"),
)
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, table, delimiter):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["image", "labels"])
    for image, labels in table.items():
        writer.writerow([image, ";".join(labels)])
    path = Path(tmp_path_factory.mktemp("csv"), "labels.csv")
    path.write_bytes(text.getvalue().encode())
    assert dict(pairs(read_label_file(path))) == {image: tuple(labels) for image, labels in table.items()}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(tmp_path_factory, content):
    path = Path(tmp_path_factory.mktemp("csv"), "labels.csv")
    path.write_bytes(b"image,labels\n" + content)
    with contextlib.suppress(InvalidInput):
        list(resolve(read_label_file(path), path.parent))
