"""Cameras: what the devices of both generations need of one, the vendor's library, regions, and image files."""
