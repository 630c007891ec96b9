"""What a queue server is told of the plans."""

import inspect
import typing

from bluesky import protocols

from plans.catalogue import CATALOGUE
from plans.queue_server import plans_for_queue_server


def test_annotations_are_types_that_a_queue_server_knows():
    plans = plans_for_queue_server()
    assert set(plans) == set(CATALOGUE)
    for name, plan in plans.items():
        assert inspect.isgeneratorfunction(plan), name
        for parameter in inspect.signature(plan).parameters.values():
            assert not isinstance(parameter.annotation, str), (name, parameter)
    scan = inspect.signature(plans["scan"]).parameters
    assert scan["detectors"].annotation == typing.Sequence[protocols.Readable]
    assert scan["motor"].annotation is protocols.NamedMovable
    assert scan["sample"].annotation == typing.Optional[str]  # noqa: UP045
    assert scan["num"].annotation is int
    # Only so does the server look for devices inside of rows.
    for name in ("grid_scan", "nd_scan", "list_scan"):
        assert inspect.signature(plans[name]).parameters["axes"].annotation is inspect.Parameter.empty, name
    assert inspect.signature(plans["scan"]).parameters["fit"].default == "none"


def test_a_copy_is_the_plan_itself_in_all_else():
    plan = plans_for_queue_server()["tune"]
    original = CATALOGUE["tune"].function
    assert (plan.__doc__, plan.__name__, plan.__module__) == (original.__doc__, original.__name__, original.__module__)
    assert "Sequence[Readable" in str(original.__annotations__["detectors"])
