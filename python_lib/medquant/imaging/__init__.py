"""Volumes, DICOM, boxes, resampling, intensity windows, masks on disk."""
