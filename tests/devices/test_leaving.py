"""A device that is ended leaves nothing behind on its wire."""

import pytest
from bluesky.run_engine import call_in_bluesky_event_loop

from devices import registry


@pytest.mark.parametrize("generation", ["v2", "v4"])
@pytest.mark.parametrize(
    ("type_name", "name", "options"), [("Newport1830C", "meter", {}), ("Elliptec", "bus", {"address": "2"})]
)
def test_ended_device_leaves_its_wire_to_others(engine, connection, wire, generation, type_name, name, options):
    device = registry.device_class(type_name, generation)(connection(name, "gone"), name="gone", **options)
    if generation == "v2":
        device.connect()
        if type_name == "Elliptec":
            device.set(1).wait(5)
    else:
        call_in_bluesky_event_loop(device.connect())
    channel = wire(name)
    assert bool(channel._steps) == (type_name == "Newport1830C")
    device.destroy()
    assert channel._steps == []
    assert channel._stray_listeners == []
