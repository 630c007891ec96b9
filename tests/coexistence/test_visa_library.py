"""Backends, and the one resource manager that all of a process share."""

import subprocess
import sys

import pytest
import pyvisa
from ptys import TcpInstrument
from vxi11_instrument import Vxi11Instrument

from coexistence import ConfigError, VisaSessionManager, visa_library
from coexistence.visa_library import VisaLibrary


def echo_line(command: bytes) -> bytes:
    return b"A" + command + b"\n"


@pytest.mark.parametrize("backend", ["py", "@visa", "", None, "@"])
def test_unknown_backends_are_refused_with_those_there_are(backend):
    with pytest.raises(ConfigError, match=r"there is no VISA backend .*'@py'.*'@ivi'.*'@sim'"):
        VisaSessionManager(backend)


def test_a_missing_vendor_library_is_an_error_that_says_what_to_install(tmp_path):
    backend = f"{tmp_path}/libvisa.so@ivi"
    with pytest.raises(ConfigError, match=r"no VISA library was found .* install NI-VISA .* or R&S VISA .*'@py'"):
        VisaSessionManager(backend)
    assert backend not in visa_library._libraries


def test_a_missing_simulation_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*bench\.yaml"):
        VisaSessionManager(f"{tmp_path}/bench.yaml@sim")


@pytest.mark.parametrize(
    ("resource", "remedy"), [("USB::0x1::0x2::SN", "'pyusb' and libusb"), ("GPIB::20", "linux-gpib")]
)
def test_what_the_pure_python_backend_lacks_here_is_named(resource, remedy, monkeypatch):
    for module in ("pyvisa_py.usb", "pyvisa_py.gpib"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with VisaSessionManager("@py") as visa, pytest.raises(ConfigError, match=f"lacks here / install .*{remedy}"):
        visa.session(resource, owner="v2")


def test_closing_one_manager_leaves_the_others_their_sessions():
    with Vxi11Instrument(echo_line) as link, VisaSessionManager("@py") as first:
        second = VisaSessionManager("@py")
        handle = second.session(link.resource, owner="second")
        first.close()
        assert handle.query("Q?") == "AQ?"
        second.close()


def test_a_resource_manager_that_others_opened_stays_open():
    theirs = pyvisa.ResourceManager("@py")
    with TcpInstrument() as meter:
        name = f"TCPIP0::127.0.0.1::{meter.port}::SOCKET"
        resource = theirs.open_resource(name, read_termination="\n", write_termination="\n")
        VisaSessionManager("@py").close()
        assert theirs.session
        assert resource.query("Qx?") == "Ax"
        resource.close()
        theirs.close()


def test_sessions_survive_that_somebody_closes_the_resource_manager():
    with Vxi11Instrument(echo_line) as link, VisaSessionManager("@py") as visa:
        handle = visa.session(link.resource, owner="v2", timeout=4.0)
        assert handle.query("Q1?") == "AQ1?"
        pyvisa.ResourceManager("@py").close()
        assert handle.query("Q2?", repeatable=True) == "AQ2?"


def test_the_last_user_closes_the_resource_manager():
    library = VisaLibrary.shared("@py")
    manager = library.resource_manager()
    again = VisaLibrary.shared("@py")
    assert again is library
    library.release()
    assert manager.session
    again.release()
    assert manager._session is None


def test_importing_the_package_does_not_load_visa():
    code = "import coexistence, sys; sys.exit('pyvisa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
