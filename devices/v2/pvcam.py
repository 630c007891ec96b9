"""PVCAM camera as a v2 device: frames in its own HDF5 files, with resource and datum documents."""
