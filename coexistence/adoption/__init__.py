"""Unmodified drivers on shared wires: pyserial's and pyvisa's interfaces, redirected openings, exported ports.

Importing this makes ``shared://`` known to pyserial.
"""

import serial

from coexistence.adoption.exported_port import ExportedPort
from coexistence.adoption.rules import LeaseRules
from coexistence.adoption.scope import Adoption, adopt
from coexistence.adoption.serial_facade import SharedSerial

__all__ = ["Adoption", "ExportedPort", "LeaseRules", "SharedSerial", "adopt"]

if __name__ not in serial.protocol_handler_packages:
    serial.protocol_handler_packages.append(__name__)
