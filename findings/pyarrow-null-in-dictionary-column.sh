#!/usr/bin/env bash
# pyarrow 26.0.1: `ChunkedArray.to_numpy()` of a dictionary-encoded column turns each null into the last category of all
# chunks together. No error, no warning, and no NaN that would give it away. An `Array` (one chunk by itself) and a
# column that was cast to its value type give NaN, as one expects.
#
# Whoever reads a table column by column meets it: columns of a `pyarrow.Table` are chunked arrays, and categories are
# dictionary-encoded. A missing age becomes the age of somebody else; with strings, a missing answer becomes an answer.
# What to do: `column.cast(column.type.value_type)` first, or go through `to_pandas()`.
#
# Seen:
#   whole column   [20. 25. 25. 20.]             of [20, null, 25, 20], mean 22.5 instead of 21.7
#   two chunks     [20.  7. 25. 20.  1.  7.  7.] of [20, null, 25, 20] and [1, null, 7]: both nulls are 7
#   strings        ['a' 'b' 'b']                 of [a, null, b]
#   one array      [20. nan 25. 20.]
#   after a cast   [20. nan 25. 20.]
# Exits with 1 if any of this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pyarrow==26.0.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa

first = pa.array([20.0, None, 25.0, 20.0]).dictionary_encode()
second = pa.array([1.0, None, 7.0]).dictionary_encode()
column = pa.chunked_array([first])
nan = float("nan")
seen = {
    "whole column": (column.to_numpy(), [20, 25, 25, 20]),
    "two chunks": (pa.chunked_array([first, second]).to_numpy(), [20, 7, 25, 20, 1, 7, 7]),
    "one array": (first.to_numpy(zero_copy_only=False), [20, nan, 25, 20]),
    "after a cast": (column.cast(pa.float64()).to_numpy(), [20, nan, 25, 20]),
}
for name, (got, _) in seen.items():
    print(f"{name:<14} {got}")
strings = pa.chunked_array([pa.array(["a", None, "b"]).dictionary_encode()]).to_numpy()
print(f"{'strings':<14} {strings}")
assert column.null_count == 1, "the null is there before the conversion"
same = all(np.array_equal(got, np.array(wanted, float), equal_nan=True) for got, wanted in seen.values())
sys.exit(0 if same and strings.tolist() == ["a", "b", "b"] else "the behaviour has changed")
PYTHON
