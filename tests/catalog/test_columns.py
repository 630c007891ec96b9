"""Whatever a column holds, every value of it reaches the catalog, in a form that can be read back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from catalog_helpers import ABSENT, NUMBER, deliver, documents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from catalog.column_names import ColumnNames, changed_names
from catalog.columns import Column, cells, ragged, stacked
from catalog.encoding import as_json
from catalog.verify import _equal, compare_run

FLOATS = {"dtype": "array", "shape": [3], "dtype_numpy": "<f8", "source": "test"}
ANY = {"dtype": "array", "shape": [], "source": "test"}
INTEGER = {"dtype": "integer", "shape": [], "source": "test"}
BOOLEAN = {"dtype": "boolean", "shape": [], "source": "test"}
STRING = {"dtype": "string", "shape": [], "source": "test"}
TEXTS = {**FLOATS, "dtype_numpy": "<U2"}
DATA_KEYS = (FLOATS, ANY, NUMBER, INTEGER, BOOLEAN, STRING, TEXTS, {**ANY, "shape": [None]}, {**FLOATS, "shape": [0]})

plain_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([np.float32(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True), np.longdouble("0.1")])
)
arrays = hnp.arrays(
    st.sampled_from(["<f8", "<f4", "<i8", "<u2", "|b1", ">i4", "<U3", "<c16", "<M8[s]"]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
)
nested = st.recursive(plain_values, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
values = plain_values | arrays | nested | st.dictionaries(st.text(max_size=2), plain_values, max_size=2)
columns = st.tuples(
    st.sampled_from(DATA_KEYS),
    st.one_of(
        st.lists(values | st.just(ABSENT), min_size=4, max_size=4),
        *(
            st.lists(same | st.none(), min_size=4, max_size=4)
            for same in (st.floats(), st.integers(), st.booleans(), st.text(max_size=8), arrays, st.lists(st.floats()))
        ),
    ),
)


@given(columns, st.integers(0, 4))
def test_a_column_holds_every_value_it_takes(column, settled_after):
    data_key, measured = column
    taken = Column(data_key)
    for number, value in enumerate(measured):
        if number == settled_after:
            taken.settle()  # a batch is written then, and what is written later may need another form
        taken.take(None if value is ABSENT else value)
    form = taken.settle()
    if form.kind == "array":
        kept = stacked(taken.arrays, form).tolist()
    elif form.kind == "ragged":
        kept = ragged(taken.arrays, form).tolist()
    else:
        kept = cells(taken.values, form)
    for value, found in zip(measured, kept, strict=True):
        assert _equal(as_json(None if value is ABSENT else value), found), (form, value, found)


@pytest.mark.server
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(columns, min_size=8, max_size=12))
def test_whatever_events_hold_reaches_the_catalog(served, measured):
    keys = {f"column_{number}": column for number, column in enumerate(measured)}
    run = deliver(served, documents(keys, 4))
    assert compare_run(served.directory.root, run) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tiled tells that it fills ragged arrays up
        assert set(run["primary"].read().data_vars) == set(keys)


@pytest.mark.server
def test_missing_and_changing_values_are_read_back_as_the_docs_say(served):
    three, nan = np.array([1.0, 2.0, 3.0]), float("nan")
    keys = {
        "missing_array": (FLOATS, [None, three, ABSENT]),
        "missing_integers": ({**FLOATS, "dtype_numpy": "<u2"}, [three.astype("<u2"), None, three.astype("<u2")]),
        "missing_number": (NUMBER, [ABSENT, 1.5, None]),
        "missing_flag": (BOOLEAN, [True, None, False]),
        "undeclared_shape": (ANY, [[1.5], [2.5], [3.5]]),
        "of_any_length": (FLOATS, [[1.0, 2.0], None, []]),
        "of_any_rows": ({**FLOATS, "shape": [2, 2]}, [np.ones((2, 2)), np.ones((1, 2)), np.ones((2, 2))]),
        "number_or_array": (NUMBER, [1.5, [1.0, 2.0], None]),
        "longer_texts": (TEXTS, [["a", "b"], ["longer", "c"], ["d", ""]]),
        "bytes": (STRING, [b"\xff", b"", b"a"]),
        "complex": (NUMBER, [1 + 2j, 3j, 4 + 0j]),
        "settings": (STRING, [{"gain": 2}, [1, "x"], "text"]),
        "enormous": (INTEGER, [2**64 - 1, -1, 0]),
    }
    run = deliver(served, documents(keys, 3))
    assert compare_run(served.directory.root, run) == []
    with pytest.warns(UserWarning, match="padded with NaNs"):
        data = run["primary"].read()
    np.testing.assert_array_equal(data["missing_array"], [[nan] * 3, three, [nan] * 3])
    np.testing.assert_array_equal(data["missing_integers"], [three, [nan] * 3, three])
    np.testing.assert_array_equal(data["missing_number"], [nan, 1.5, nan])
    np.testing.assert_array_equal(data["missing_flag"], [1, nan, 0])
    np.testing.assert_array_equal(data["undeclared_shape"], [[1.5], [2.5], [3.5]])
    np.testing.assert_array_equal(data["of_any_length"], [[1, 2], [nan, nan], [nan, nan]])
    assert run["primary"]["of_any_length"].read().tolist()[2] == []
    np.testing.assert_array_equal(data["of_any_rows"][1], [[1, 1], [nan, nan]])
    assert data["number_or_array"].values.tolist()[:2] == ["1.5", "[1.0, 2.0]"]
    assert data["longer_texts"].values.tolist() == [["a", "b"], ["longer", "c"], ["d", ""]]
    assert data["bytes"].values.tolist() == ["/w==", "", "YQ=="]
    np.testing.assert_array_equal(data["complex"], [[1, 2], [0, 3], [4, 0]])
    assert data["settings"].values.tolist() == ['{"gain": 2}', '[1, "x"]', "text"]
    assert data["enormous"].values.tolist() == [str(2**64 - 1), "-1", "0"]


AWKWARD_NAMES = [
    *("bad;name", "a/b", "x.y", "ts_other", "Other", "other", "internal", "time", "time_", "seq_num", 'a"b', "", "é"),
    *("_hidden", "-- x", "a\nb", "long" * 50, "long" * 51),
]


def test_every_column_gets_a_name_that_a_database_can_take():
    names = changed_names(AWKWARD_NAMES)
    kept = [names.get(key, key) for key in AWKWARD_NAMES]
    assert len({name.lower() for name in kept}) == len(AWKWARD_NAMES)
    assert all(name.isascii() and 0 < len(name) <= 60 for name in kept)
    assert [names[key] for key in ("time", "a/b", "other", "_hidden")] == ["time_2", "a_b", "other2", "key_hidden"]
    assert changed_names(["motor", "det mean", "power_v2", "scan-x"]) == {}


def test_documents_without_such_names_stay_the_same_objects():
    event = {"descriptor": "d", "data": {"motor": 1.0}, "timestamps": {"motor": 1.0}}
    names = ColumnNames()
    names("descriptor", {"uid": "d", "name": "primary", "data_keys": {"motor": {}}})
    assert names("event", event) is event


@pytest.mark.server
@pytest.mark.parametrize("data_key", [NUMBER, FLOATS], ids=["numbers", "arrays"])
def test_columns_and_streams_of_any_name_reach_the_catalog(served, data_key):
    values = [1.0, 2.0] if data_key is NUMBER else [np.ones(3), np.zeros(3)]
    keys = dict.fromkeys(AWKWARD_NAMES, (data_key, values))
    run = deliver(served, documents(keys, 2, stream="a/b"))
    assert compare_run(served.directory.root, run) == []
    assert len(run["a_b"].read().data_vars) == len(keys)
    assert "Column 'bad;name' of stream 'a_b' is called 'bad_name' here." in run.metadata["notes"]


@pytest.mark.server
@pytest.mark.parametrize(
    "odd",
    [
        {"a.b": 1},
        {"a/b": {"c.d": 2}},
        {"": 1},
        {"x": "\ud800"},
        {"\ud800": 1},
        {"x": 10**400},
        {"x": [np.inf, b"\xff"]},
    ],
    ids=repr,
)
def test_metadata_of_any_kind_reach_the_catalog(served, odd):
    run = dict(documents({"number": (NUMBER, [1.0])}, 1))
    run["start"] = {**run["start"], **odd}
    settings_of = {"data": odd, "timestamps": dict.fromkeys(odd, 1.0)}
    settings_of["data_keys"] = {key: dict(STRING) for key in odd}
    run["descriptor"] = {**run["descriptor"], "configuration": {"device": settings_of}}
    run["stop"] = {**run["stop"], "extra": odd}
    assert compare_run(served.directory.root, deliver(served, run.items())) == []
