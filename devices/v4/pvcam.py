"""PVCAM camera as a v4 device: frames in HDF5 files, with stream resources."""
