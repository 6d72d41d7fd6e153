"""The stand-alone window: real MRML and the very panel of the Slicer module, without Slicer."""
