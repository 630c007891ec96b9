"""What each instrument says on its wire: bytes in, values out, no I/O."""
