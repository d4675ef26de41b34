"""Large CSV files are read in parts side by side: the same table, and the same words for what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from fedmpi.data import csvfile, load
from fedmpi.errors import UsageError

ROWS = [f"{k / 7:.4f},{'red' if k % 3 else 'blue'},{k},{'yes' if k % 2 else 'no'}" for k in range(300)]
FILES = {
    "plain": ["a,colour,n,label", *ROWS],
    "no names": ROWS,
    "blank lines": ["a,colour,n,label", *ROWS[:100], "", "", *ROWS[100:], "", ""],
    "missing": ["a,colour,n,label", *ROWS[:200], ",red,NA,no", *ROWS[200:]],
    "a new colour late": ["a,colour,n,label", *ROWS, "1,green,3,yes"],
    "quotes from the middle on": ["a,colour,n,label", *ROWS[:150], '1,"a, or\nb",3,yes', *ROWS[150:], '2,"red",4,no'],
    "quotes at once": ['a,colour,n,"label"', '1,"red",2,"no"', *ROWS],
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
@pytest.mark.parametrize("name", FILES)
def test_the_same_table_in_parts(name: str, last: str, end: str, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes((end.join(FILES[name]) + last).encode())
    monkeypatch.setattr(csvfile, "PART", 1 << 30)
    whole = load(str(path), prepare=False)
    parts: list[int] = []
    ends = csvfile._ends
    monkeypatch.setattr(csvfile, "PART", 500)
    monkeypatch.setattr(csvfile, "_ends", lambda *where: (parts.append(end) or end for end in ends(*where)))
    found = load(str(path), prepare=False)
    assert len(parts) > 3 or name == "quotes at once"
    np.testing.assert_array_equal(found.X_train, whole.X_train)
    np.testing.assert_array_equal(found.y_test, whole.y_test)
    assert (found.values, found.classes, found.columns) == (whole.values, whole.classes, whole.columns)


@pytest.mark.parametrize(
    ("line", "said"),
    [("x,red,3,no", r'got "x" in line 252'), ("1,red,3", "must have 4 cells in each line, got 3 in line 252")],
)
def test_what_is_wrong_is_named_by_its_line(line: str, said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(csvfile, "PART", 500)
    monkeypatch.setattr(csvfile, "SAMPLE", 20)
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,colour,n,label", *ROWS[:250], line, *ROWS[250:]]))
    with pytest.raises(UsageError, match=said):
        load(str(path), prepare=False)
