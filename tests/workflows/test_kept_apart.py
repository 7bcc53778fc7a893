import shutil

from photo_folders import write_labelled

from fewsight.data.layouts import read_layout
from fewsight.workflows import kept_apart as module
from fewsight.workflows.kept_apart import kept_apart


def test_the_same_files_are_compared_once(tmp_path, monkeypatch):
    write_labelled(tmp_path, shots=2)
    shutil.copy(tmp_path / "dots" / "0.png", tmp_path / "dots" / "copy.png")
    collection = read_layout(tmp_path).collection
    first = kept_apart(collection, None)
    assert len(set(first.duplicates.tolist())) == 6

    def never(*arguments, **others):
        raise AssertionError("compared again")

    with monkeypatch.context() as patched:
        patched.setattr(module, "duplicate_groups", never)
        assert (kept_apart(read_layout(tmp_path).collection, None).duplicates == first.duplicates).all()
    (tmp_path / "dots" / "copy.png").unlink()
    assert len(kept_apart(read_layout(tmp_path).collection, None).duplicates) == 6
    for number in range(module.REMEMBERED):
        write_labelled(tmp_path / str(number), shots=1)
        kept_apart(read_layout(tmp_path / str(number)).collection, None)
    assert len(module._known) <= module.REMEMBERED
