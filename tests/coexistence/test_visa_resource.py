"""Resource strings: one resource for each spelling, and refusals that say why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexistence import ConfigError
from coexistence.visa_resource import VisaResource, serial_path


@pytest.mark.parametrize(
    ("spellings", "key"),
    [
        (["TCPIP0::Host::5025::SOCKET", "tcpip::host::05025::socket", "TCPIP::HOST::5025::SOCKET"],
         "TCPIP0::host::5025::SOCKET"),
        (["TCPIP0::10.0.0.7::inst0::INSTR", "TCPIP::10.0.0.7", "tcpip::10.0.0.7::INST0", "TCPIP::10.0.0.7::INSTR"],
         "TCPIP0::10.0.0.7::inst0::INSTR"),
        (["TCPIP0::scope::hislip0::INSTR", "tcpip::Scope::HISLIP0", "TCPIP::scope::hislip0,4880::INSTR"],
         "TCPIP0::scope::hislip0,4880::INSTR"),
        (["GPIB0::20::INSTR", "gpib::20", "GPIB::020::instr"], "GPIB0::20::INSTR"),
        (["GPIB1::9::2::INSTR", "gpib1::9::02"], "GPIB1::9::2::INSTR"),
        (["USB0::0x0957::0x1A07::MY1::0::INSTR", "usb::2391::0x1a07::MY1", "USB::0x957::6663::MY1::INSTR"],
         "USB0::0x0957::0x1A07::MY1::0::INSTR"),
        (["ASRL/dev/ttyUSB0::INSTR", "asrl/dev/ttyUSB0"], "ASRL/dev/ttyUSB0::INSTR"),
    ],
)  # fmt: skip
def test_spellings_of_one_resource_have_one_key(spellings, key):
    assert {VisaResource.parse(spelling).key for spelling in spellings} == {key}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "non-empty string"),
        (None, "non-empty string"),
        ("meter", "starts with none of TCPIP, USB, GPIB, ASRL"),
        ("TPCIP0::host::INSTR", "did you mean TCPIP"),
        ("TCPIP0", "names no host"),
        ("TCPIP0::::5025::SOCKET", "names no host"),
        ("TCPIP0::host::SOCKET", "a host and a port"),
        ("TCPIP0::host::99999::SOCKET", "'99999' is no TCP port"),
        ("TCPIP0::host::0::SOCKET", "'0' is no TCP port"),
        ("TCPIP0::host::port::SOCKET", "'port' is no TCP port"),
        ("TCPIP0::host::5025", "5025 looks like a port"),
        ("TCPIP0::host::inst0::more::INSTR", "too many parts"),
        ("TCPIP0::10.0.0.777::INSTR", "'10.0.0.777' is no IPv4 address"),
        ("TCPIP0::no host::INSTR", "'no host' is no host name"),
        ("TCPIPX::host::INSTR", "'X' is no board number"),
        ("GPIB0::31::INSTR", "'31' is no primary address"),
        ("GPIB0::5::50::INSTR", "'50' is no secondary address"),
        ("GPIB0::INSTR", "needs a primary address"),
        ("GPIB0::INTFC", "no INTFC resources"),
        ("USB0::0x957::INSTR", "vendor, product and serial"),
        ("USB0::0x957::0x1FFFF::A::INSTR", "no product number"),
        ("USB0::keysight::0x1::A::INSTR", "'keysight' is no vendor number"),
        ("ASRL::INSTR", "names no serial device"),
    ],
)
def test_strings_that_cannot_be_right_are_refused_with_the_reason(text, why):
    with pytest.raises(ConfigError) as caught:
        VisaResource.parse(text)
    assert why in str(caught.value)
    assert caught.value.problems[0].suggestion


def test_a_numbered_serial_port_needs_its_path_here():
    with pytest.raises(ConfigError, match="depends on the machine"):
        serial_path(VisaResource.parse("ASRL3::INSTR"))


def test_devices_of_a_gpib_board_are_on_the_boards_wire():
    assert VisaResource.parse("GPIB2::7").wire_name == VisaResource.parse("gpib2::9::INSTR").wire_name == "GPIB2"


@given(st.text(alphabet="TCPIPUSBGASRL0159:x,./[]hislip-", max_size=40))
def test_any_text_is_parsed_to_a_fixed_point_or_refused(text):
    try:
        resource = VisaResource.parse(text)
    except ConfigError:
        return
    assert VisaResource.parse(resource.name).key == resource.key
    assert VisaResource.parse(resource.key).key == resource.key
