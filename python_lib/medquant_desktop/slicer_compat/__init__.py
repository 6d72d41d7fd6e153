"""What 3D Slicer gives a module and slicer-core lacks: `qt`, `ctk`, the module classes, node selectors.

`bootstrap.start()` puts the stand-ins in place. They cover what the panel uses, not all of Slicer.
"""
