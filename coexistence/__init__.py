"""Wires and who may use them: arbitration, serial ports, VISA sessions, adoption of foreign drivers."""
